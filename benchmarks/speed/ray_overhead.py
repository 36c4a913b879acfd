"""The overhead of Ray in embedding: the pipeline's embed stage against a plain loop over the same worker.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.ray_overhead --images 5000 --model ViT-B-32
    OMP_NUM_THREADS=1 python -m benchmarks.speed.ray_overhead --images 5000

Drawn birds, and an open_clip architecture with random weights or the demo's CLIP, which is so small that hardly any
model shows overhead more. One worker with one core, parts of 512 rows; both ways read the same samples table and write
the same part files, each in a process of its own; they take turns, medians of `--repeat`. Counted are

- `steady`: seconds per thousand images between the first finished part and the last one: reading, decoding, model,
  writing, and Ray's scheduling, without one-time work;
- `stage`: seconds of the whole stage: also the worker's process with its imports (Ray), the model, the manifest;
- `process`: seconds of the whole process: also interpreter, imports, and the start and end of the Ray session;
- `CPU`: CPU seconds of the process and all that it started, Ray's own servers too. Other work on the machine disturbs
  it least, and where cores are idle it overstates what Ray costs.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors.torch import save_file

from benchmarks import harness
from cluster.part_actor import limit_threads
from cluster.session import ray_session
from cluster.stage import RunContext
from fgvr import tables
from fgvr.clip.source import CONFIG_FILE
from fgvr.config import build
from fgvr.config.model_names import DEMO_MODEL
from fgvr.encoders.embed_worker import EmbedWorker
from fgvr.tables import Table
from pipelines.run_tables import Run

WAYS, ROWS_PER_PART = ("loop", "ray"), 512


@dataclass(frozen=True)
class Seconds:
    """See the module's docstring."""

    steady: float
    stage: float
    cpu: float
    process: float = 0.0


class NoTracking:
    """Replaces MLflow."""

    @contextmanager
    def stage(self, _name: str, _decides: object) -> Iterator[NoTracking]:
        """See `cluster.tracking.Tracker`."""
        yield self

    def finish(self, table: Table) -> None:
        """Send nothing."""


def random_clip(name: str, folder: Path) -> str:
    """An open_clip architecture with random weights, as a model folder; `demo` is itself."""
    if name == DEMO_MODEL:
        return name
    import open_clip  # after fgvr, which prepares torchvision beside a CPU torch

    network = open_clip.create_model(name)
    folder.mkdir()
    size = network.visual.image_size[0]
    facts = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": {"size": size}}
    (folder / CONFIG_FILE).write_text(json.dumps(facts))
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    return str(folder)


def context_of(folder: Path, images: int, clip: str = DEMO_MODEL) -> Any:
    """A run without MLflow that draws and embeds birds."""
    values = {
        "clip": {"model": clip},
        "run": {"folder": str(folder)},
        "ingest": {"source": {"kind": "field_guide", "train_per_class": -(-images // 36), "test_per_class": 1}},
        "embed": {"splits": ["train"], "workers": {"num_cpus": 1, "rows_per_part": ROWS_PER_PART}},
        "cluster": {"num_cpus": 2},
    }
    return RunContext(build(values), str(folder), NoTracking())  # type: ignore[arg-type]


def loop(context: Any, samples: Table, folder: Path) -> Path:
    """The stage without Ray."""
    config = context.config
    limit_threads(1)
    worker = EmbedWorker(
        encoder=config.clip, limits=config.ingest.limits, batch_images=config.embed.batch_images, device="cpu"
    )
    rows = samples.read(["image_id", "uri", "split"])
    rows = rows.filter([split == "train" for split in rows["split"].to_pylist()])
    for number, start in enumerate(range(0, len(rows), ROWS_PER_PART)):
        tables.write_part(str(folder / "loop"), number, worker.process(rows.slice(start, ROWS_PER_PART)))
    return folder / "loop"


def embedded(context: Any, samples: Table) -> Table:
    """The stage's table, by whatever computes it."""
    return Run(context, {"samples": samples}).table("embeddings")


def measure(way: str, samples: Table, args: argparse.Namespace) -> Seconds:
    """One way in this process."""
    folder, context = args.folder, context_of(args.folder, args.images, args.model)
    with ray_session(context.config.cluster) if way == "ray" else nullcontext():
        started, before = time.monotonic(), harness.cpu_seconds()
        written = Path(embedded(context, samples).uri) if way == "ray" else loop(context, samples, folder)
        stage, cpu = time.monotonic() - started, harness.cpu_seconds() - before
    parts = sorted(written.glob("*.parquet"), key=lambda part: part.stat().st_mtime)
    rows = sum(pq.read_metadata(part).num_rows for part in parts[1:])
    return Seconds((parts[-1].stat().st_mtime - parts[0].stat().st_mtime) / rows * 1000, stage, cpu)


def in_own_process(way: str, samples: Table, images: int, model: str, folder: Path) -> Seconds:
    """What `measure` gives in a process of its own, and the seconds of that process."""
    shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    found = harness.again(
        *("--measure", way, "--samples", samples.uri, "--images", images, "--model", model, "--folder", folder)
    )
    return Seconds(**(found | {"process": time.monotonic() - started}))


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--model", default=DEMO_MODEL, help="open_clip architecture; default: the demo's CLIP")
    parser.add_argument("--measure", choices=WAYS, help=harness.HIDDEN)
    parser.add_argument("--samples", help=harness.HIDDEN)
    parser.add_argument("--folder", type=Path, help=harness.HIDDEN)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if args.measure:
        harness.answer(measure(args.measure, Table.load(args.samples), args))
        return
    with tempfile.TemporaryDirectory() as scratch:
        samples = Run(context_of(Path(scratch) / "samples", args.images)).table("samples")
        model = random_clip(args.model, Path(scratch) / "clip")
        ways = {way: partial(in_own_process, way, samples, args.images, model, Path(scratch) / "run") for way in WAYS}
        found = harness.take_turns(ways, args.repeat)
    with harness.reporting(args) as report:
        report.say(
            f"{args.images:,} drawn images, CLIP {args.model}, one worker with one core, medians of {args.repeat}"
        )
        heads = {"": "<10", "steady s/1000": ">15.2f", "stage s": ">10.1f", "process s": ">11.1f", "CPU s": ">8.1f"}
        table = report.table(heads)
        medians = {way: [statistics.median(row) for row in zip(*map(columns, found[way]), strict=True)] for way in WAYS}
        for way, row in medians.items():
            table.row(way, *row)
        more = [ray / plain - 1 for ray, plain in zip(medians["ray"], medians["loop"], strict=True)]
        table.row("Ray adds", *(f"{one:.1%}" for one in more))


def columns(seconds: Seconds) -> tuple[float, float, float, float]:
    """The values in the order of the table's columns."""
    return seconds.steady, seconds.stage, seconds.process, seconds.cpu


if __name__ == "__main__":
    main()
