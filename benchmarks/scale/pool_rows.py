"""A row-parallel stage of up to ten million rows that cost nothing: what the pool, its parts and Ray take for them.

    export OMP_NUM_THREADS=1
    python -m benchmarks.scale.pool_rows --folder /data/pool --rows 100000 1000000
    python -m benchmarks.scale.pool_rows --folder /data/pool --rows 10000000      # may be killed and started again
    python -m benchmarks.scale.pool_rows --folder /data/pool --plot docs/pool-memory.svg

The stage is `cluster.parts.run_parts` over Ray, as every stage runs it: ids from a file, samples from their table, a
part file each, summaries, failures. Made up are the samples (URIs of which nothing is read) and the answers: a worker
makes a part's rows at once. So the seconds are what the pool adds to any stage, and the memory is what grows with rows.

Every second the benchmark notes the rows that are done and the anonymous memory (RssAnon) of the driver, of its largest
worker, and of Ray's servers together (gcs_server, raylet, agents, monitors). `again` is the same call when all parts
are there: it reads a footer of each, as a resumed run does.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import harness
from cluster.heartbeat import beating
from cluster.parts import PartJob, run_parts
from cluster.session import ray_session
from fgvr import schemas, tables
from fgvr.config.base import Workers
from fgvr.config.run import Cluster
from fgvr.schemas import Failure, Reason
from fgvr.tables import Table

SAMPLES_A_PART = 65_536
KINDS, FAILED_OF = 1000, 500
"""Names of the made-up answers, and of how many rows one fails."""
POINTS = 120
"""Points per line of the plot."""


@dataclass
class Measured:
    """What a run of the stage took; see the module's docstring.

    Attributes:
        rows: of the stage.
        parts: files of it.
        seconds: from the start of the stage to its last part; of all sessions, if it was killed.
        cpu: CPU seconds of the driver, its workers and Ray in the last session.
        again: seconds of the call that finds all parts.
        seen: (rows done, MiB of the driver, of the largest worker, of Ray's servers) every second.
    """

    rows: int
    parts: int
    seconds: float
    cpu: float
    again: float
    seen: list[tuple[int, float, float, float]] = field(default_factory=list)


class MadeUp:
    """The PartWorker of answers about images that are not read."""

    def process(self, rows: pa.Table) -> pa.Table:
        """Answers by image id; one in FAILED_OF failed."""
        ids = rows["image_id"].to_numpy()
        failed = ids % FAILED_OF == 0
        answered = ~failed
        names = pa.array([f"Kind {kind}" for kind in (ids * 2_654_435_761 % KINDS)[answered].tolist()])
        offsets = pa.array(np.concatenate([[0], np.cumsum(answered)]).astype(np.int32))
        no = np.zeros(len(names), bool)
        failure = Failure(Reason.ENGINE_ERROR, "made up").as_row()
        columns: dict[str, Any] = {
            "image_id": ids,
            "texts": pa.ListArray.from_arrays(offsets, names),
            "cut": pa.ListArray.from_arrays(offsets, pa.array(no)),
            "logprobs": pa.ListArray.from_arrays(offsets, pa.array(no.astype(np.float32))),
            "prompt_tokens": np.where(answered, 272, 0).astype(np.int32),
            "output_tokens": np.where(answered, 8, 0).astype(np.int32),
            "error": pa.array([failure if fails else None for fails in failed.tolist()], schemas.ERROR.type),
        }
        return tables.conform(pa.table(columns), schemas.ANSWERS)


def samples(folder: Path, rows: int) -> Table:
    """The made-up samples table; written once."""
    place = folder / "samples"
    with suppress(FileNotFoundError):
        return Table.load(str(place))
    for number, start in enumerate(range(0, rows, SAMPLES_A_PART)):
        ids = np.arange(start, min(start + SAMPLES_A_PART, rows))
        part = {
            "image_id": ids,
            "uri": [f"s3://photos/of/somebody/2026/{image:09d}.jpg" for image in ids.tolist()],
            "split": pa.array(["train"] * len(ids)),
        }
        tables.write_part(str(place), number, tables.conform(pa.table(part), schemas.SAMPLES))
    made = Table(str(place), "samples", "f", rows, 0, -(-rows // SAMPLES_A_PART), SAMPLES_A_PART, 0.0)
    made.commit()
    return made


def measure(folder: Path, rows: int, workers: Workers) -> Measured:
    """Run the stage in this process; what an earlier, killed session measured is continued."""
    place, notes = folder / "answers", folder / "seen.json"
    before: dict[str, Any] = json.loads(notes.read_text()) if notes.exists() else {"seconds": 0.0, "seen": []}
    job = PartJob("answers", str(place), MadeUp, {}, schemas.ANSWERS, samples(folder, rows), workers)
    ids = np.arange(rows, dtype=np.int64)
    seen: list[tuple[int, float, float, float]] = [tuple(point) for point in before["seen"]]
    with ray_session(Cluster(num_cpus=workers.max_workers, object_store_gb=0.25)):
        started = time.monotonic()

        def look() -> None:
            seen.append((done(place) * workers.rows_per_part, *memory()))
            spent = before["seconds"] + time.monotonic() - started
            notes.write_text(json.dumps({"seconds": spent, "seen": seen}))

        with beating(look, 1.0):
            summary = run_parts(job, ids)
        seconds, cpu = before["seconds"] + time.monotonic() - started, harness.cpu_seconds()
        started = time.monotonic()
        found = run_parts(job, ids)
        again = time.monotonic() - started
    if (summary.rows, found.rows, found.failed) != (rows, rows, -(-rows // FAILED_OF)):
        raise ValueError(f"{found.rows:,} rows, {found.failed:,} failed: other ones than were made up")
    return Measured(rows, summary.parts, seconds, cpu, again, seen)


def done(place: Path) -> int:
    """Finished parts in a folder."""
    with suppress(FileNotFoundError), os.scandir(place) as entries:
        return sum(entry.name.startswith("part-") for entry in entries)
    return 0


def memory() -> tuple[float, float, float]:
    """MiB of anonymous memory of this process, of its largest worker, and of Ray's servers together."""
    import psutil

    worker = servers = 0.0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error, OSError, StopIteration):
            own = harness.anonymous_mib(child.pid)
            if "PartActor" in " ".join(child.cmdline()):
                worker = max(worker, own)
            else:
                servers += own
    return harness.anonymous_mib(), worker, servers


def measured(folder: Path) -> Iterator[Measured]:
    """The measurements so far, by rows."""
    for file in sorted(folder.glob("*/measured.json"), key=lambda place: int(place.parent.name)):
        yield Measured(**json.loads(file.read_text()))


def plot(folder: Path, file: Path) -> None:
    """Draw memory over the rows that are done, of the largest run and, thinner, of the others."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.fonttype"], mpl.rcParams["svg.hashsalt"] = "none", "fgvr"
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    runs = list(measured(folder))
    for run in runs:
        points = run.seen[:: max(1, len(run.seen) // POINTS)] + run.seen[-1:]
        largest = run is runs[-1]
        for place, (name, colour) in enumerate((("driver", "C0"), ("a worker", "C1"), ("Ray's servers", "C2")), 1):
            label = name if largest else None
            axes.plot(
                [point[0] / 1e6 for point in points],
                [round(point[place], 1) for point in points],
                color=colour,
                linewidth=1.6 if largest else 0.8,
                label=label,
            )
    axes.set(xlabel="million rows done", ylabel="MiB of anonymous memory", xlim=(0, None), ylim=(0, None))
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=110)


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[])
    parser.add_argument("--workers", type=int, default=1, help="of a core each; default: %(default)s")
    parser.add_argument("--rows-per-part", type=int, default=1024, help="default: %(default)s")
    parser.add_argument("--plot", type=Path, help="draw memory over rows into this file (.svg, .png)")
    parser.add_argument("--here", action="store_true", help=harness.HIDDEN)
    args = parser.parse_args()
    for rows in args.rows:
        folder = args.folder / str(rows)
        folder.mkdir(parents=True, exist_ok=True)
        if args.here:
            workers = Workers(
                min_workers=args.workers, max_workers=args.workers, num_cpus=1, rows_per_part=args.rows_per_part
            )
            (folder / "measured.json").write_text(json.dumps(asdict(measure(folder, rows, workers))))
            harness.answer(None)
        elif not (folder / "measured.json").exists():
            sizes = ("--workers", args.workers, "--rows-per-part", args.rows_per_part)
            harness.again("--folder", args.folder, "--rows", rows, *sizes, "--here")
            shutil.rmtree(folder / "answers")
    if args.here:
        return
    with harness.reporting(args) as report:
        heads = {"rows": ">12,", "parts": ">8,", "seconds": ">9.1f", "rows/s": ">9,.0f", "CPU ms/part": ">13.2f"}
        heads |= {"driver MiB": ">12.0f", "worker": ">8.0f", "Ray": ">6.0f", "again, s": ">10.1f"}
        table = report.table(heads)
        for run in measured(args.folder):
            peaks = [max(point[place] for point in run.seen) for place in (1, 2, 3)]
            table.row(
                run.rows, run.parts, run.seconds, run.rows / run.seconds, 1000 * run.cpu / run.parts, *peaks, run.again
            )
    if args.plot:
        plot(args.folder, args.plot)


if __name__ == "__main__":
    main()
