"""Memory and time of listing photos: a million URIs in any order become the samples table.

    python -m benchmarks.scale.listing --rows 1000000
    python -m benchmarks.scale.listing --rows 1000000 --source bucket

Writes a CSV of shuffled URIs and lists it as the stage ingest does, in a process of its own without Ray. Prints
a table: seconds, the most memory that the process had resident (`ru_maxrss`), and the size of the samples table. The
first line is a listing of one row: what Python and its libraries take. `bucket`: keys of a bucket instead, from a
server in this process that answers S3's ListObjectsV2 with made-up pages of 1,000; its own time counts, too.
"""

from __future__ import annotations

import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np

from benchmarks import harness


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
            """Print nothing."""

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
    peak = harness.again("--work", folder, "--source", source, environment=environment)
    return time.monotonic() - started, peak


def work(folder: Path, kind: str) -> None:
    """List a source as the stage does; answers with the peak memory in MiB."""
    from fgvr import tables
    from fgvr.config.data import FolderSource, Ingest, TableSource
    from fgvr.sources.source import read_source

    source = FolderSource(path="s3://photos") if kind == "bucket" else TableSource(path=str(folder / "list.csv"))
    listed = read_source(source, str(folder))
    for number, rows in enumerate(listed.parts(Ingest().rows_per_part)):
        tables.write_part(str(folder / "samples"), number, rows)
    harness.answer(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Measure and print."""
    parser = harness.parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--source", choices=["table", "bucket"], default="table")
    parser.add_argument("--work", type=Path, help=harness.HIDDEN)
    arguments = parser.parse_args()
    if arguments.work is not None:
        work(arguments.work, arguments.source)
        return
    with harness.reporting(arguments) as report:
        table = report.table({"rows": ">12,", "seconds": ">9.1f", "peak MiB": ">10.0f", "table MiB": ">11.1f"})
        for rows in [1, *arguments.rows]:
            table.row(rows, *measure(rows, arguments.source))


def measure(rows: int, source: str) -> tuple[float, float, float]:
    """Seconds, peak MiB, and MiB of the samples table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if source == "bucket":
            with bucket(rows) as environment:
                seconds, peak = ingest(folder, "bucket", environment)
        else:
            write_list(folder / "list.csv", rows)
            seconds, peak = ingest(folder, "table", {})
        return seconds, peak, sum(part.stat().st_size for part in (folder / "samples").iterdir()) / 2**20


if __name__ == "__main__":
    main()
