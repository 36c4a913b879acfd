"""From one simulated engine to 64: throughput against the ideal, engines per core, and growing and shrinking pools.

    export OMP_NUM_THREADS=1
    python -m benchmarks.scale.scaling --engines 1 4 16 64        # the curve
    python -m benchmarks.scale.scaling --grow 16                  # a pool of 1 to 16 engines
    python -m benchmarks.scale.scaling --decode                   # engines and the decoding of photos, without Ray

The stage is label (`cluster.parts.run_parts` with its worker, as `pipelines/label.py` runs it); a drawn photo of 64 px
is read and decoded per row. An engine is a Ray actor with a hundredth of a core; it works on 16 images at once, 0.8 s
per image, which is 20 images/s: the rate of a model of 8 billion parameters on one GPU. A request only waits, so two
cores can hold 64 engines.

- `ideal`: engines × 20 images/s. `rows/s`: while all engines run, that is from the first part of the last one that
  started to the last part of the first one that ended: with the pauses between parts, in which an engine runs empty.
- `CPU`: cores busy on the whole machine in that time, with Ray's own processes; `worker`: memory of an engine's process
  that it shares with none, MiB.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
from PIL import Image

from benchmarks import harness
from benchmarks.demo_models.drawings import write_birds
from cluster.heartbeat import beating
from cluster.parts import PartJob, run_parts
from cluster.session import ray_session
from fgvr import schemas, tables
from fgvr.config import ImageLimits, SimulatedBackend
from fgvr.config.base import Workers
from fgvr.config.run import Cluster
from fgvr.demo.samples import DEMO_DIFFICULTY, sample
from fgvr.mllm.backend import Labeler, Sampling
from fgvr.mllm.backends import backend_engine
from fgvr.mllm.label_worker import LabelSettings, LabelWorker
from fgvr.mllm.simulated import SimulatedEngine
from fgvr.tables import Table

RATE, CONCURRENCY, ROWS_PER_PART, PHOTOS = 20.0, 16, 512, 2000
ENGINE = SimulatedBackend(request_seconds=CONCURRENCY / RATE, concurrency=CONCURRENCY)
SETTINGS = LabelSettings(ENGINE, "Name it", Sampling(), ImageLimits(), threads=2)


@dataclass(frozen=True)
class Part:
    """A part in work: its engine's process, and when it began and ended, seconds of the machine's clock."""

    engine: int
    begin: float
    end: float
    rows: int


class TimedWorker(LabelWorker):
    """Label's worker; writes down when it had which part."""

    def __init__(self, settings: LabelSettings, diary: str, backend: Labeler) -> None:
        super().__init__(settings, backend)
        self.diary = Path(diary) / str(os.getpid())

    def process(self, rows: pa.Table) -> pa.Table:
        """See `LabelWorker`."""
        begin = time.monotonic()
        made = super().process(rows)
        with self.diary.open("a") as stream:
            stream.write(json.dumps([os.getpid(), begin, time.monotonic(), rows.num_rows]) + "\n")
        return made


def samples_of(uris: Sequence[str], rows: int, folder: Path) -> Table:
    """A samples table of `rows` rows that repeats the photos."""
    listed = pa.table({"image_id": np.arange(rows), "uri": [uris[row % len(uris)] for row in range(rows)]})
    size = 65_536
    for number, start in enumerate(range(0, rows, size)):
        tables.write_part(str(folder), number, listed.slice(start, size))
    return Table(str(folder), "samples", "f", rows, 0, -(-rows // size), size, 0.0)


def run(uris: Sequence[str], workers: Workers, rows: int, folder: Path) -> list[Part]:
    """The parts of a stage of so many rows, in the order in which they began."""
    (folder / "diary").mkdir(parents=True)
    job = PartJob(
        name=f"{workers.max_workers} engines",
        folder=str(folder / "out"),
        worker=TimedWorker,
        arguments={"settings": SETTINGS, "diary": str(folder / "diary")},
        schema=schemas.ANSWERS,
        samples=samples_of(uris, rows, folder / "samples"),
        workers=workers,
        engine=backend_engine(SETTINGS.mllm),
    )
    summary = run_parts(job, np.arange(rows))
    if (summary.rows, summary.failed) != (rows, 0):
        raise RuntimeError(f"{summary.rows} of {rows} rows, {summary.failed} failed")
    lines = [line for file in (folder / "diary").iterdir() for line in file.read_text().splitlines()]
    return sorted((Part(*json.loads(line)) for line in lines), key=lambda part: part.begin)


def window(parts: Sequence[Part]) -> tuple[float, float]:
    """When all engines were there: from the last first part to the first last part."""
    engines = {part.engine for part in parts}
    first = max(min(part.begin for part in parts if part.engine == engine) for engine in engines)
    last = min(max(part.end for part in parts if part.engine == engine) for engine in engines)
    return first, last


def rows_within(parts: Sequence[Part], first: float, last: float) -> float:
    """Rows computed in a time; those of a part count as evenly spread over it."""
    overlaps = [max(0.0, min(part.end, last) - max(part.begin, first)) / (part.end - part.begin) for part in parts]
    return sum(share * part.rows for share, part in zip(overlaps, parts, strict=True))


@contextmanager
def watched(diary: Path) -> Iterator[list[tuple[float, float, float]]]:
    """(time, busy cores of the machine, median MiB of an engine's own memory), each second."""
    seen: list[tuple[float, float, float]] = []

    def look() -> None:
        own = [memory(int(file.name)) for file in diary.glob("*")] if len(seen) % 10 == 9 else []
        known = [mib for mib in own if mib]
        cores = psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1)
        seen.append((time.monotonic(), cores, statistics.median(known) if known else 0.0))

    with beating(look, 1.0):  # psutil tells a thread's first look nothing: 0 cores, before any engine works
        yield seen


def memory(pid: int) -> float:
    """MiB that a process shares with none; 0 where it has ended."""
    try:
        return float(psutil.Process(pid).memory_full_info().uss) / 2**20
    except psutil.NoSuchProcess:
        return 0.0


def curve(uris: Sequence[str], engines: Sequence[int], seconds: float, scratch: Path, report: harness.Report) -> None:
    """Throughput of pools of a fixed size, pool by pool."""
    table = report.table(
        {
            "engines": ">8",
            "ideal": ">8.0f",
            "rows/s": ">8.0f",
            "share": ">8.1%",
            "window s": ">10.0f",
            "CPU": ">6.2f",
            "worker": ">8.0f",
        }
    )
    for count in engines:
        workers = Workers(min_workers=count, max_workers=count, num_cpus=0.01, rows_per_part=ROWS_PER_PART)
        parts_each = max(3, round((seconds + count) * RATE / ROWS_PER_PART))  # one second of start per engine
        folder = scratch / str(count)
        with watched(folder / "diary") as seen:
            parts = run(uris, workers, count * parts_each * ROWS_PER_PART, folder)
        first, last = window(parts)
        rate = rows_within(parts, first, last) / (last - first)
        within = [look for look in seen if first <= look[0] <= last]
        cores = statistics.mean(look[1] for look in within) if within else float("nan")
        worker = max((look[2] for look in within), default=float("nan"))
        table.row(count, count * RATE, rate, rate / (count * RATE), last - first, cores, worker)


def grow(uris: Sequence[str], most: int, scratch: Path, report: harness.Report) -> None:
    """How many engines have a part in work, second by second."""
    workers = Workers(min_workers=1, max_workers=most, num_cpus=0.01, rows_per_part=128)
    parts = run(uris, workers, 128 * most * 8, scratch / "grow")
    start, end = parts[0].begin, max(part.end for part in parts)
    starts = sorted(min(part.begin for part in parts if part.engine == engine) for engine in {p.engine for p in parts})
    report.say(f"a pool of 1 to {most}: engines with a part, every five seconds; {len(starts)} engines were started")
    times = np.arange(start, end, 5.0)
    report.say(" ".join(str(sum(part.begin <= now < part.end for part in parts)) for now in times))
    report.say(f"all were there after {starts[-1] - start:.0f} s")


def decode(scratch: Path, report: harness.Report) -> None:
    """How much of an engine is used where photos must be decoded beside it, and what a core decodes."""
    table = report.table({"photo": ">12", "images/s": ">10.0f", "engines per core": ">16.1f", "used": ">8.1%"})
    for side in ((64, 64), (500, 375), (1000, 1000)):
        file = scratch / f"{side[0]}.jpg"
        bird = Image.fromarray(sample(0, "train", 0, difficulty=DEMO_DIFFICULTY).image).resize(side)
        noise = np.random.default_rng(0).normal(0, 12, (side[1], side[0], 3))
        Image.fromarray(np.clip(np.asarray(bird) + noise, 0, 255).astype(np.uint8)).save(file, quality=90)
        rows = pa.table({"image_id": np.arange(160), "uri": [str(file)] * 160})
        quick = LabelWorker(replace(SETTINGS, threads=0), SimulatedEngine(SimulatedBackend()))
        before = time.process_time()
        quick.process(rows)
        rate = 160 / (time.process_time() - before)
        engine = SimulatedEngine(ENGINE)
        begin = time.monotonic()
        LabelWorker(SETTINGS, engine).process(rows)
        # A part's last requests leave places free: its own length bounds what can be used.
        used = engine.clock.busy / CONCURRENCY / (time.monotonic() - begin)
        table.row(f"{side[0]}×{side[1]}", rate, rate / RATE, used)


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--engines", type=int, nargs="+")
    parser.add_argument("--seconds", type=float, default=60, help="of a point of the curve, about")
    parser.add_argument("--grow", type=int)
    parser.add_argument("--decode", action="store_true")
    args = parser.parse_args()
    with harness.reporting(args) as report, tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if args.decode:
            decode(scratch, report)
        if args.engines or args.grow:
            uris = write_birds(scratch / "photos", PHOTOS)
            with ray_session(Cluster(num_cpus=2)):
                if args.engines:
                    curve(uris, args.engines, args.seconds, scratch, report)
                if args.grow:
                    grow(uris, args.grow, scratch, report)


if __name__ == "__main__":
    main()
