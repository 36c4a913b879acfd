"""Memory and time of listing photos: a million URIs in any order become the samples table.

    python benchmarks/listing.py --rows 1000000
    python benchmarks/listing.py --rows 1000000 --source bucket

Writes a CSV of so many shuffled URIs and lists it as the stage ingest does, in a process of its own without Ray. Prints
a table: seconds, the most memory that the process had resident (`ru_maxrss`), and the size of the samples table. The
first line is a listing of one row: what Python and its libraries take. `bucket`: keys of a bucket instead, from a
server in this process that answers S3's ListObjectsV2 with made-up pages of 1,000; its own time counts, too.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

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


@contextmanager
def bucket(keys: int) -> Iterator[dict[str, str]]:
    """A server with so many keys; the environment in which s3:// means it."""

    class Pages(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            first = int(asked.get("continuation-token", ["0"])[0])
            last = min(first + 1000, keys)
            body = [f"<ListBucketResult><IsTruncated>{str(last < keys).lower()}</IsTruncated>"]
            body.append(f"<NextContinuationToken>{last}</NextContinuationToken>" if last < keys else "")
            body += [
                f"<Contents><Key>catalogue/{n // 1000:06d}/item-{n:09d}.jpg</Key><Size>100000</Size></Contents>"
                for n in range(first, last)
            ]
            data = "".join([*body, "</ListBucketResult>"]).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing on the console."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_address[1]}"
        keys_of_nobody = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        yield keys_of_nobody | {"AWS_ENDPOINT_URL": place}
        server.shutdown()


def ingest(folder: Path, source: str, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds and peak MiB of a process that lists a source and writes the parts into a folder."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, __file__, "--work", str(folder), "--source", source],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
    )
    return time.monotonic() - started, int(done.stdout) / 1024


def work(folder: Path, kind: str) -> None:
    """What the stage does with a source; prints the peak, KiB."""
    from fgvr import tables
    from fgvr.config.data import FolderSource, Ingest, TableSource
    from fgvr.datasets import read_source

    source = FolderSource(path="s3://photos") if kind == "bucket" else TableSource(path=str(folder / "list.csv"))
    listed = read_source(source, str(folder))
    for number, rows in enumerate(listed.parts(Ingest().rows_per_part)):
        tables.write_part(str(folder / "samples"), number, rows)
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--source", choices=["table", "bucket"], default="table")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        work(arguments.work, arguments.source)
        return
    asked: Sequence[int] = arguments.rows
    sys.stdout.write(f"{'rows':>12} {'seconds':>8} {'peak MiB':>9} {'table MiB':>9}\n")
    for rows in [1, *asked]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if arguments.source == "bucket":
                with bucket(rows) as environment:
                    seconds, peak = ingest(folder, "bucket", environment)
            else:
                write_list(folder / "list.csv", rows)
                seconds, peak = ingest(folder, "table", {})
            size = sum(part.stat().st_size for part in (folder / "samples").iterdir()) / 2**20
            sys.stdout.write(f"{rows:12,} {seconds:8.1f} {peak:9.0f} {size:9.1f}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
