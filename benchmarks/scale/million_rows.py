"""The growth of the stages: 10 thousand, 100 thousand and a million rows, with simulated models and drawn photos.

    export OMP_NUM_THREADS=1
    python -m benchmarks.scale.million_rows --folder /data/scale --rows 10000 100000
    python -m benchmarks.scale.million_rows --folder /data/scale --rows 1000000 --stages draw samples labels aspects
    python -m benchmarks.scale.million_rows --folder /data/scale --rows 1000000 --resume
    python -m benchmarks.scale.million_rows --folder /data/scale --table        # of all measurements so far

Real are: every JPEG file (the field guide's, one for each row, drawn before), its reading, decoding and hashing in each
stage, the tables, Ray, MLflow, the clean-up of names, the search of neighbours, candidate sets, and a student that
classifies (random weights). Made up are the MLLM's names (a thousand kinds, two in a thousand names unique), p(yes),
half a percent of failures, and CLIP's vectors. Engines take next to no time: measured is everything else.

The stages of a size run in one process; what was measured stays in the folder, and what is done is not repeated.

- `rows/s` and `exponent`: of the stage's own seconds (its manifest has them), which hold the start of its workers.
  The exponent is log(seconds ratio) / log(rows ratio) to the size before.
- `driver`: MiB of memory that the driver's process had at the stage's peak, imports (Ray, MLflow, torch) included.
- `store`: MiB in Ray's object store at its fullest; `disk`: MiB of the stage's tables.
- `--resume`: half of the parts of the answers are there; seconds from the start of the process to the first new one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import harness
from cluster.console import show_progress
from cluster.heartbeat import beating
from cluster.run import open_run
from fgvr.config import Config, build
from fgvr.demo.questions import QUESTIONS
from fgvr.demo.species import SPECIES
from fgvr.models.student import StudentSpec, build_student, save_student, timm_preprocess
from pipelines.run_tables import Run

STAGES = {
    "samples": ("samples",),
    "labels": ("answers", "labels"),
    "aspects": ("aspects",),
    "embeddings": ("embeddings",),
    "candidates": ("candidates",),
    "predictions": ("predictions",),
}
"""Table that is asked for → the tables that it computes."""
ASKED, LIMIT = 16, 540.0
QUESTIONS_FILE = "million-rows-questions.txt"  # the user may have a questions.txt in the folder


@dataclass(frozen=True)
class Measured:
    """The measurements of one stage at one size; see the module's docstring."""

    rows: int
    seconds: float
    driver_mib: float
    store_mib: float
    disk_mib: float


def config_of(folder: Path, rows: int, run: str, dim: int) -> Config:
    """The config of a run at one size: simulated models, two workers of one core."""
    one_core = {"min_workers": 2, "max_workers": 2, "num_cpus": 1, "rows_per_part": 1024}
    source = {"kind": "table", "path": str(folder / str(rows) / "photos" / "samples.csv"), "class_column": None}
    mllm = {"kind": "simulated", "request_seconds": 0.002, "concurrency": 256}
    failures = {"engine_error": 0.003, "refused": 0.002}
    everything = {"max_images": None}  # by default 20,000 are asked about
    return build(
        {
            "run": {"folder": str(folder / str(rows)), "name": run},
            "cluster": {"num_cpus": 2, "object_store_gb": 0.5},
            "tracking": {"log_models": False},
            "ingest": {"source": source},
            "mllm": mllm | {"failures": failures},
            "label": {"images": everything, "workers": one_core},
            "aspects": {"workers": one_core} | everything,
            "questions": {"file": str(folder / QUESTIONS_FILE)},
            "embed": {"vectors": {"kind": "simulated", "dim": dim}, "workers": one_core},
            "infer": {"model": str(folder / "student"), "workers": one_core},
        }
    )


def draw(folder: Path, rows: int) -> None:
    """A photo for each row, questions and a student."""
    if not (folder / str(rows) / "photos" / "samples.csv").exists():
        # In a process of its own, whose children need not import what this one did.
        command = [sys.executable, "-m", "fgvr.demo.field_guide", str(folder / str(rows) / "photos"), "--workers", "2"]
        command += ["--train-per-class", str(math.ceil(rows / len(SPECIES))), "--test-per-class", "0"]
        subprocess.run(command, check=True)
    if not (folder / "student").exists():
        labels = tuple(species.name for species in SPECIES)
        spec = StudentSpec("test_byobnet", labels, (), timm_preprocess("test_byobnet", 64))
        save_student(folder / "student", spec, build_student(spec).state_dict(), {})
        (folder / QUESTIONS_FILE).write_text("".join(f"{question.text}\n" for question in QUESTIONS[:ASKED]))


def measure(config: Config, stages: Sequence[str], measured: Path | None) -> None:
    """Compute stages in this process, and write down what each took; None: do not."""
    with open_run(config) as context:
        flow = Run(context)
        for stage in stages:
            harness.forget_peak()
            with object_store() as store:
                flow.table(stage)
            made = [table for table in context.tables if table.name in STAGES[stage]]
            files = [file for table in made for file in Path(table.uri).rglob("*") if file.is_file()]
            disk = sum(file.stat().st_size for file in files) / 2**20
            seconds = sum(table.seconds for table in made)
            result = Measured(made[-1].rows, seconds, harness.peak_mib(), max(store) / 2**20, disk)
            if measured is not None:
                (measured / f"{stage}.json").write_text(json.dumps(asdict(result)))


@contextmanager
def object_store() -> Iterator[list[float]]:
    """Bytes in the object store, looked at twice a second."""
    import ray
    from ray._private import internal_api

    # By its address: other sessions of Ray may be running on this machine.
    state = internal_api.get_state_from_address(ray.get_runtime_context().gcs_address)
    seen = [0.0]

    def look() -> None:
        seen.append(float(internal_api.get_memory_info_reply(state).store_stats.object_store_bytes_used))

    with beating(look, 0.5):
        yield seen


def start(args: argparse.Namespace, rows: int, stages: Sequence[str], run: str) -> subprocess.Popen[bytes]:
    """Begin to compute stages in a process of their own."""
    command = [*harness.this_command(), "--folder", str(args.folder), "--rows", str(rows), "--dim", str(args.dim)]
    return subprocess.Popen([*command, "--stages", *stages, "--run", run])


def resume(args: argparse.Namespace, rows: int) -> float:
    """Seconds from the start of a process to the first new part, where every other part is there."""
    tables = args.folder / str(rows) / "run" / "tables"
    copy = args.folder / str(rows) / "resumed" / "tables"
    shutil.rmtree(copy.parent, ignore_errors=True)
    for name in ("samples", "answers"):
        for file in (tables / name).rglob("*"):
            number = int(file.stem[5:]) if file.name.startswith("part-") else 0
            if file.is_file() and (name == "samples" or (file.suffix == ".parquet" and number % 2 == 0)):
                there = copy / file.relative_to(tables)
                there.parent.mkdir(parents=True, exist_ok=True)
                os.link(file, there)
    before = len(list(copy.glob("answers/*/part-*")))
    started = time.monotonic()
    process = start(args, rows, ["labels"], "resumed")
    while len(list(copy.glob("answers/*/part-*"))) == before and process.poll() is None:
        if time.monotonic() - started > LIMIT:
            process.kill()
            raise TimeoutError(f"no new part after {LIMIT:.0f} s")
        time.sleep(0.05)
    seconds = time.monotonic() - started
    process.send_signal(signal.SIGINT)
    process.wait(60)
    return seconds


def table(folder: Path) -> str:
    """All measurements, one line per stage and size."""
    lines = [
        f"{'stage':<12}{'rows':>10}{'seconds':>9}{'rows/s':>8}{'exponent':>10}{'driver':>8}{'store':>7}{'disk':>7}"
    ]
    sizes = sorted(int(place.name) for place in folder.iterdir() if place.name.isdigit())
    for stage in [*STAGES, "all"]:
        before: Measured | None = None
        for size in sizes:
            now = found(folder, size, stage)
            if now is None:
                continue
            exponent = ""
            if before is not None:
                exponent = f"{math.log(now.seconds / before.seconds) / math.log(now.rows / before.rows):.2f}"
            lines.append(
                f"{stage:<12}{now.rows:>10,}{now.seconds:>9.1f}{now.rows / now.seconds:>8,.0f}{exponent:>10}"
                f"{now.driver_mib:>8,.0f}{now.store_mib:>7.1f}{now.disk_mib:>7,.0f}"
            )
            before = now
    resumed = [(size, folder / str(size) / "measured" / "resume") for size in sizes]
    lines += [f"resume at {size:,} rows, half done: {file.read_text()} s" for size, file in resumed if file.exists()]
    return "\n".join(lines)


def found(folder: Path, size: int, stage: str) -> Measured | None:
    """The measurements; for `all`, sums of seconds and disk and the highest peaks, if every stage was measured."""
    if stage == "all":
        each = [found(folder, size, name) for name in STAGES]
        parts = [part for part in each if part is not None]
        if len(parts) < len(each):
            return None
        peaks = [max(getattr(part, name) for part in parts) for name in ("driver_mib", "store_mib")]
        sums = [sum(getattr(part, name) for part in parts) for name in ("seconds", "disk_mib")]
        return Measured(parts[0].rows, sums[0], peaks[0], peaks[1], sums[1])
    file = folder / str(size) / "measured" / f"{stage}.json"
    return Measured(**json.loads(file.read_text())) if file.exists() else None


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000])
    parser.add_argument("--stages", nargs="+", default=["draw", *STAGES], choices=["draw", *STAGES])
    parser.add_argument("--dim", type=int, default=128, help="dimensions of the made-up vectors")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--run", help=harness.HIDDEN)
    args = parser.parse_args()
    if args.run:
        show_progress()
        # Of a resumed run the seconds are not those of the whole.
        measured = args.folder / str(args.rows[0]) / "measured" if args.run == "run" else None
        measure(config_of(args.folder, args.rows[0], args.run, args.dim), args.stages, measured)
        return
    for rows in [] if args.table else args.rows:
        if args.resume:
            seconds = resume(args, rows)
            (args.folder / str(rows) / "measured" / "resume").write_text(f"{seconds:.1f}")
            continue
        if "draw" in args.stages:
            draw(args.folder, rows)
        (args.folder / str(rows) / "measured").mkdir(exist_ok=True)
        missing = [stage for stage in args.stages if stage != "draw" and found(args.folder, rows, stage) is None]
        if missing and start(args, rows, missing, "run").wait() != 0:
            raise SystemExit(f"{rows:,} rows: one of {', '.join(missing)} failed")
    with harness.reporting(args) as report:
        report.say(table(args.folder))


if __name__ == "__main__":
    main()
