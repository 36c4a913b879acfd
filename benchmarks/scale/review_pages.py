"""Time and memory of the review page's answers: 10 million photos with 100,000 names.

    python -m benchmarks.scale.review_pages --rows 10000000 --names 100000

Writes tables of samples and predictions, opens them as `pipelines/review.py` does, and asks for pages as the browser
does, at random places. Prints a table: seconds (median and longest of the pages of a kind), and the most memory that
the process had resident until then (`ru_maxrss`; writing the tables is done in another process).
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness

PART = 100_000


def write_tables(folder: Path, rows: int, names: int) -> None:
    """Samples and predictions in parts of 100,000 rows; names have a long tail and stand in no order."""
    import pyarrow as pa

    from fgvr import schemas
    from fgvr.tables import Table, write_part

    vocabulary = np.array([f"{number % 997:03d} species {number}" for number in range(names)], dtype=object)
    parts = -(-rows // PART)
    for part in range(parts):
        rng = np.random.default_rng(part)
        ids = np.arange(part * PART, min(rows, (part + 1) * PART))
        codes = np.minimum((names * rng.random(len(ids)) ** 3).astype(np.int64), names - 1)
        labels = pa.array(vocabulary[codes], pa.string())
        scores = rng.random(len(ids)).astype(np.float32)
        uris = [f"s3://photos-of-a-customer/catalogue/{n % 997:03d}/item-{n:09d}.jpg" for n in ids.tolist()]
        samples = {"image_id": ids, "uri": uris, "split": ["train"] * len(ids)}
        offsets = pa.array(np.arange(len(ids) + 1, dtype=np.int32))
        tops = {
            "top_labels": pa.ListArray.from_arrays(offsets, labels),
            "top_scores": pa.ListArray.from_arrays(offsets, pa.array(scores)),
        }
        predictions = {"image_id": ids, "label": labels, "label_id": codes.astype(np.int32), "score": scores, **tops}
        for name, columns, schema in (
            ("samples", samples, schemas.SAMPLES),
            ("predictions", predictions, schemas.PREDICTIONS),
        ):
            filled = {field.name: columns.get(field.name, pa.nulls(len(ids), field.type)) for field in schema}
            write_part(str(folder / name), part, pa.table(filled, schema=schema))
    for name in ("samples", "predictions"):
        Table(str(folder / name), name, "benchmark", rows, 0, parts, PART, 0.0).commit()


def main() -> None:
    """See the module."""
    parser = harness.parser(__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--names", type=int, default=100_000)
    parser.add_argument("--pages", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        writer = os.fork()
        if not writer:
            write_tables(folder, given.rows, given.names)
            os._exit(0)
        _, status = os.waitpid(writer, 0)
        if status:
            raise SystemExit("the tables could not be written")
        os.environ["FGVR_CACHE"] = str(folder / "cache")
        with harness.reporting(given) as report:
            table = report.table({"what": "28", "median s": ">10.3f", "longest s": ">11.3f", "peak MiB": ">10.0f"})
            for line in measure(folder, given.pages):
                table.row(*line)


def measure(folder: Path, pages: int) -> list[tuple[str, float, float, float]]:
    """(what, median seconds, longest seconds, peak MiB)."""
    from fgvr.review.catalogue import Catalogue
    from fgvr.review.decisions import Decisions
    from fgvr.tables import Table

    lines: list[tuple[str, float, float, float]] = []
    rng = np.random.default_rng(0)

    def timed(what: str, times: int, work: Callable[[], Any]) -> Any:
        seconds, result = [], None
        for _ in range(times):
            begun = time.perf_counter()
            result = work()
            seconds.append(time.perf_counter() - begun)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        lines.append((what, float(np.median(seconds)), max(seconds), peak))
        return result

    tables = {name: Table.load(str(folder / name)) for name in ("samples", "predictions")}
    catalogue = timed("first opening", 1, lambda: Catalogue(tables))
    catalogue = timed("opening again", 1, lambda: Catalogue(tables))
    none = Decisions()
    names = catalogue.index.names
    largest = catalogue.names(none)[0][0].name
    timed("names, sorted", pages, lambda: catalogue.names(none, start=int(rng.integers(len(names)))))
    timed("names, search", pages, lambda: catalogue.names(none, search=str(rng.integers(len(names)))))
    timed("type-ahead", pages, lambda: catalogue.like(none, str(rng.integers(len(names)))))

    def page(name: str) -> Any:
        return catalogue.photos(none, catalogue.of_name(none, name)[0])

    timed("photos of any name", pages, lambda: page(names[int(rng.integers(len(names)))]))
    timed("photos of the largest name", pages, lambda: page(largest))
    timed("a queue", pages, lambda: catalogue.photos(none, catalogue.queue("most_useful")[:60]))
    return lines


if __name__ == "__main__":
    main()
