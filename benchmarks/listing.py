"""Memory and time of listing photos: a million URIs in any order become the samples table.

    python benchmarks/listing.py --rows 1000000

Writes a CSV of so many shuffled URIs, runs `pipelines/ingest.py` on it in a process of its own, and prints a table:
seconds, and the most memory that the process had resident (`ru_maxrss`). The first line is a listing of one row: what Python and its libraries take.
"""

from __future__ import annotations

import argparse
import os
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
    """Seconds and peak MiB of `pipelines/ingest.py` on the list in a folder."""
    script = [str(ROOT / "pipelines/ingest.py"), "--run.name", "listing", "--run.folder", str(folder)]
    source = ["--ingest.source.kind", "table", "--ingest.source.path", str(folder / "list.csv")]
    measured = (
        "import resource, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
        "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", measured, *script, *source],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    peak = next(line for line in done.stdout.splitlines() if line.startswith("PEAK"))
    return time.monotonic() - started, int(peak.split()[1]) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    asked: Sequence[int] = parser.parse_args().rows
    sys.stdout.write(f"{'rows':>12} {'seconds':>8} {'peak MiB':>9}\n")
    for rows in [1, *asked]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_list(folder / "list.csv", rows)
            seconds, peak = ingest(folder)
            sys.stdout.write(f"{rows:12,} {seconds:8.1f} {peak:9.0f}\n")


if __name__ == "__main__":
    main()
