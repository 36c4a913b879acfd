"""Memory and time of listing photos: a million URIs in any order become the samples table.

    python benchmarks/listing.py --rows 1000000

Writes a CSV of so many shuffled URIs and lists it as the stage ingest does, in a process of its own without Ray. Prints
a table: seconds, the most memory that the process had resident (`ru_maxrss`), and the size of the samples table. The
first line is a listing of one row: what Python and its libraries take.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


def write_list(path: Path, rows: int) -> None:
    """A CSV with URIs of about 60 characters and class names, shuffled, written in slices."""
    order = np.random.default_rng(0).permutation(rows)
    with path.open("w") as file:
        file.write("uri,class_name\n")
        for first in range(0, rows, 100_000):
            file.writelines(
                f"s3://shop-photos-of-a-customer/catalogue/{n % 997:03d}/item-{n:09d}.jpg,species {n % 500}\n"
                for n in order[first : first + 100_000].tolist()
            )


def ingest(folder: Path) -> tuple[float, float]:
    """Seconds and peak MiB of a process that lists `list.csv` and writes the parts beside it."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, __file__, "--work", str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return time.monotonic() - started, int(done.stdout) / 1024


def work(folder: Path) -> None:
    """What the stage does with a source; prints the peak, KiB."""
    from fgvr import tables
    from fgvr.config.data import Ingest, TableSource
    from fgvr.datasets import read_source

    listed = read_source(TableSource(path=str(folder / "list.csv")), str(folder))
    for number, rows in enumerate(listed.parts(Ingest().rows_per_part)):
        tables.write_part(str(folder / "samples"), number, rows)
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        work(arguments.work)
        return
    asked: Sequence[int] = arguments.rows
    sys.stdout.write(f"{'rows':>12} {'seconds':>8} {'peak MiB':>9} {'table MiB':>9}\n")
    for rows in [1, *asked]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_list(folder / "list.csv", rows)
            seconds, peak = ingest(folder)
            size = sum(part.stat().st_size for part in (folder / "samples").iterdir()) / 2**20
            sys.stdout.write(f"{rows:12,} {seconds:8.1f} {peak:9.0f} {size:9.1f}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
