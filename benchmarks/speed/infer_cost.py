"""The fixed cost of inference: the whole infer command over small files, its CPU seconds and its memory.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.infer_cost --images 5000 --repeat 3

Drawn birds as files of 64 px and the demo's student (`test_byobnet`, random weights), a network so small that nearly
all is fixed cost.

- `infer`: `pipelines/infer.py` in an empty run folder, with Ray, MLflow and the listing of the photos;
- `worker`: `fgvr.models.infer.InferWorker`, the worker of that command, called in a plain loop over the same files.

Counted are CPU seconds of all processes of a command from its start to its end, seconds, and the peak of their memory.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

import yaml

from benchmarks import harness

WAYS = ("infer", "worker")
PART = 512


def infer(folder: Path) -> harness.Cost:
    """The whole command, in an empty run folder."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = Path(scratch) / "infer.yaml"
        config = {
            "run": {"folder": scratch, "name": "infer"},
            "ingest": {"source": {"kind": "folder", "path": str(folder / "photos")}},
            "infer": {"model": str(folder / "student")},
            "cluster": {"num_cpus": 2},
        }
        file.write_text(yaml.safe_dump(config))
        command = [sys.executable, str(harness.ROOT / "pipelines" / "infer.py"), "--config", str(file)]
        return harness.run_measured(command, log=folder / "infer.log")


def worker(folder: Path) -> harness.Cost:
    """This module in a process of its own, which runs `classify`."""
    return harness.run_measured([*harness.this_command(), "--classify", str(folder)], log=folder / "worker.log")


def classify(folder: Path) -> None:
    """A loop over parts, as a worker gets them."""
    import pyarrow as pa

    from fgvr import tables
    from fgvr.config import ImageLimits
    from fgvr.models.infer import InferSettings, InferWorker

    files = sorted(str(file) for file in (folder / "photos").iterdir())
    made = InferWorker(InferSettings(str(folder / "student"), ImageLimits(), device="cpu", threads=1))
    for number, start in enumerate(range(0, len(files), PART)):
        some = files[start : start + PART]
        rows = pa.table({"image_id": range(start, start + len(some)), "uri": some})
        tables.write_part(str(folder / "out"), number, made.process(rows))


def prepare(folder: Path, images: int) -> None:
    """Photos and a student."""
    from benchmarks.demo_models.drawings import write_birds
    from fgvr.demo.species import SPECIES
    from fgvr.models.student import StudentSpec, build_student, save_student, timm_preprocess

    write_birds(folder / "photos", images)
    labels = tuple(species.name for species in SPECIES)
    spec = StudentSpec("test_byobnet", labels, (), timm_preprocess("test_byobnet", 64))
    save_student(folder / "student", spec, build_student(spec).state_dict(), {})


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeat", type=int, default=3, help="rounds; both ways take turns")
    parser.add_argument("--classify", type=Path, help=harness.HIDDEN)
    args = parser.parse_args()
    if args.classify is not None:
        classify(args.classify)
        return
    with harness.reporting(args) as report, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder, args.images)
        costs = harness.take_turns({"infer": partial(infer, folder), "worker": partial(worker, folder)}, args.repeat)
        report.say(f"{args.images:,} drawn photos of 64 px, medians of {args.repeat} rounds")
        harness.cost_table(report, costs)
        report.facts["costs"] = costs


if __name__ == "__main__":
    main()
