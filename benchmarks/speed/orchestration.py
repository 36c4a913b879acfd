"""The cost of orchestration: label, embed and infer over 20,000 images against the same functions in process pools.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.orchestration --images 20000

Drawn photos; eight simulated engines that name 20 images per second each, the demo's CLIP on two workers, a ResNet18
for 64 px (random weights) on two. `pipeline`: the stages as `pipelines/` runs them, with Ray, MLflow, manifests and
retries. `loop`: `multiprocessing` pools of as many processes that call the same workers on the same parts and write the
same files, one pool per stage. Each way runs in a process of its own; its whole wall time counts, with imports and
Ray's start.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from benchmarks import harness
from fgvr import schemas, tables
from fgvr.config import Config, build
from fgvr.config.base import Workers
from fgvr.demo.field_guide import write_field_guide
from fgvr.demo.species import SPECIES
from fgvr.encoders.embed_worker import EmbedWorker
from fgvr.mllm.label_worker import LabelWorker
from fgvr.models.infer import InferSettings, InferWorker
from fgvr.models.student import StudentSpec, build_student, save_student, timm_preprocess
from fgvr.names.label_space import build_label_space, count_items, label_rows
from fgvr.part_worker import PartWorker
from fgvr.tables import Table

WAYS = ("loop", "pipeline")
STAGES = ("samples", "labels", "embeddings", "predictions")
_at_work: dict[str, Any] = {}


def config_of(folder: Path, run: str) -> Config:
    """The config of both ways."""
    two = {"min_workers": 2, "max_workers": 2, "num_cpus": 0.9, "rows_per_part": 512}
    engines = {"min_workers": 8, "max_workers": 8, "num_cpus": 0.02, "rows_per_part": 256}
    source = {"kind": "table", "path": str(folder / "photos" / "samples.csv"), "class_column": None}
    return build(
        {
            "run": {"folder": str(folder), "name": run},
            "cluster": {"num_cpus": 2},
            "ingest": {"source": source},
            "mllm": {"kind": "simulated", "request_seconds": 0.8, "concurrency": 16},
            "label": {"images": {"max_images": None}, "workers": engines, "merge_similarity": None},
            "embed": {"workers": two},
            "infer": {"model": str(folder / "student"), "workers": two},
        }
    )


def pipeline(folder: Path) -> None:
    """The stages as `pipelines/` runs them."""
    from cluster.run import open_run
    from pipelines.run_tables import Run

    with open_run(config_of(folder, "pipeline")) as context:
        flow = Run(context)
        for stage in STAGES:
            flow.table(stage)


def loop(folder: Path) -> None:
    """The same workers in process pools."""
    from pipelines.label import label_settings

    config = config_of(folder, "loop")
    listed = pa.csv.read_csv(folder / "photos" / "samples.csv")
    uris = [str(folder / "photos" / uri) for uri in sorted(listed["uri"].to_pylist())]
    rows = pa.table({"image_id": np.arange(len(uris)), "uri": uris})
    tables.write_part(str(folder / "loop" / "samples"), 0, rows)
    samples = Table(str(folder / "loop" / "samples"), "samples", "f", len(uris), 0, 1, len(uris), 0.0)
    pooled(LabelWorker, {"settings": label_settings(config, several=True)}, samples, config.label.workers, "answers")
    parts = range(-(-len(uris) // config.label.workers.rows_per_part))
    answers = [tables.read_part(str(folder / "loop" / "answers"), number) for number in parts]
    named = build_label_space(count_items(answers, 1))
    for number, part in enumerate(answers):
        tables.write_part(str(folder / "loop" / "labels"), number, label_rows(part, named))
    limits = config.ingest.limits
    clip = {"encoder": config.clip, "limits": limits, "batch_images": config.embed.batch_images, "device": "cpu"}
    pooled(EmbedWorker, clip, samples, config.embed.workers, "embeddings")
    student = InferSettings(config.infer.model or "", limits, batch_images=config.infer.batch_images, threads=1)
    pooled(InferWorker, {"settings": student}, samples, config.infer.workers, "predictions")


def pooled(
    worker: Callable[..., PartWorker], arguments: dict[str, Any], samples: Table, workers: Workers, name: str
) -> None:
    """One stage: each part of the samples through a pool of workers."""
    folder = str(Path(samples.uri).parent / name)
    size = workers.rows_per_part
    numbers = range(-(-samples.rows // size))
    start = (worker, arguments, samples, folder, size)
    with get_context("spawn").Pool(workers.max_workers, initializer=begin, initargs=start) as pool:
        for _ in pool.imap_unordered(part, numbers):
            pass


def begin(worker: Callable[..., PartWorker], arguments: dict[str, Any], samples: Table, folder: str, size: int) -> None:
    """Make the worker of this process."""
    _at_work.update(worker=worker(**arguments), samples=samples, folder=folder, size=size)


def part(number: int) -> None:
    """Compute and write one part."""
    samples, size = _at_work["samples"], _at_work["size"]
    ids = np.arange(number * size, min((number + 1) * size, samples.rows))
    tables.write_part(_at_work["folder"], number, _at_work["worker"].process(samples.take(ids, ["image_id", "uri"])))


def check(folder: Path) -> None:
    """Both ways made the same rows."""
    for name, schema in (("answers", schemas.ANSWERS), ("predictions", schemas.PREDICTIONS)):
        ours = sorted((folder / "pipeline" / "tables" / name).glob("*/part-*"))
        theirs = sorted((folder / "loop" / name).glob("part-*"))
        one, other = (pa.concat_tables([pa.parquet.read_table(f) for f in files]) for files in (ours, theirs))
        if not one.select(["image_id"]).equals(other.select(["image_id"])) or one.num_rows != other.num_rows:
            raise RuntimeError(f"{name}: other rows")
        if name == "answers" and one["texts"].to_pylist() != other["texts"].to_pylist():
            raise RuntimeError(f"{name}: other texts in {schema.names}")


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--measure", choices=WAYS, help=harness.HIDDEN)
    parser.add_argument("--folder", type=Path, help=harness.HIDDEN)
    args = parser.parse_args()
    if args.measure:
        (pipeline if args.measure == "pipeline" else loop)(args.folder)
        harness.answer(None)
        return
    with harness.reporting(args) as report, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_field_guide(folder / "photos", per_class={"train": -(-args.images // len(SPECIES))})
        spec = StudentSpec("resnet18", ("a", "b"), (), timm_preprocess("resnet18", 64))
        save_student(folder / "student", spec, build_student(spec).state_dict(), {})
        seconds = {}
        for way in WAYS:
            started = time.monotonic()
            harness.again("--measure", way, "--folder", scratch)
            seconds[way] = time.monotonic() - started
            report.say(f"{way:<10}{seconds[way]:>8.1f} s")
        check(folder)
        for name in ("answers", "labels", "embeddings", "predictions"):
            (manifest,) = (folder / "pipeline" / "tables" / name).glob("*/manifest.json")
            files = list((folder / "loop" / name).glob("part-*"))
            report.say(f"{name}: stage {Table.load(str(manifest.parent)).seconds:.1f} s, {len(files)} parts")
        report.say(f"overhead of the pipeline: {seconds['pipeline'] / seconds['loop'] - 1:+.1%}")


if __name__ == "__main__":
    main()
