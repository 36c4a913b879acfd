"""What a user takes home: the predictions with the photos' URIs, and the names with their counts, as plain files.

`predictions.parquet` has a row per classified photo, and so has `predictions.csv` for up to `MOST_CSV_ROWS` of them.
`names.csv` counts the photos per name. All are written part by part, so that memory does not grow with the photos.
"""

from __future__ import annotations

import heapq
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from fgvr import storage
from fgvr.tables import Rows, Table

PARQUET, CSV, NAMES = "predictions.parquet", "predictions.csv", "names.csv"
MOST_CSV_ROWS = 1_000_000
"""Above it there is no CSV: spreadsheets end at 1,048,576 rows, and programs read Parquet faster."""
MADE_FROM = b"fgvr.predictions"
"""Key of the version of the predictions table in the footer of `predictions.parquet`, which is written last."""
COLUMNS = ["image_id", "label", "score", "abstained", "error"]

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        ("uri", pa.string()),
        ("name", pa.string()),  # null where the model abstained or the photo failed
        ("score", pa.float32()),  # probability of `guess`, 0-1
        ("abstained", pa.bool_()),
        ("guess", pa.string()),  # the best name even where the model abstained; null for failed photos
        ("why", pa.string()),  # why there is no name
    ]
)


@dataclass(frozen=True)
class NameCount:
    """A predicted name, the photos that have it, and their mean score (0-1; NaN where no photo has a score)."""

    name: str
    photos: int
    mean_score: float


@dataclass(frozen=True)
class Unsure:
    """A photo with a low score."""

    image_id: int
    guess: str
    score: float
    abstained: bool


@dataclass(frozen=True)
class Tally:
    """Counts over a predictions table: `rows` = `named` + `abstained` + `failed`.

    Attributes:
        rows: photos.
        named: photos with a name.
        abstained: photos whose best name was too unsure.
        failed: photos without any answer of the model.
        names: most frequent first; photos where the model abstained do not count.
        unsure: photos with the lowest scores, lowest first; those without a finite score are not among them.
    """

    rows: int = 0
    named: int = 0
    abstained: int = 0
    failed: int = 0
    names: list[NameCount] = field(default_factory=list)
    unsure: list[Unsure] = field(default_factory=list)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files beside the report, the one that most people open first."""
        return (*((CSV,) if self.rows <= MOST_CSV_ROWS else ()), PARQUET, NAMES)


class Counter:
    """Counts part after part; memory is that of the distinct names."""

    def __init__(self, unsure: int = 0) -> None:
        """Keep the `unsure` photos with the lowest scores."""
        self._keep, self._rows, self._abstained, self._failed = unsure, 0, 0, 0
        self._photos: dict[str, int] = {}
        self._scores: dict[str, tuple[float, int]] = {}
        self._lowest: list[tuple[float, int, str, bool]] = []

    def add(self, rows: pa.Table) -> None:
        """Count rows with the columns COLUMNS."""
        self._rows += rows.num_rows
        failed = pc.or_(pc.is_null(rows["label"]), pc.is_valid(rows["error"]))
        silent = pc.and_(pc.fill_null(rows["abstained"], False), pc.invert(failed))
        self._failed += int(pc.sum(failed).as_py() or 0)
        self._abstained += int(pc.sum(silent).as_py() or 0)
        named = rows.filter(pc.invert(pc.or_(failed, silent)))
        finite = pc.if_else(pc.is_finite(named["score"]), named["score"], None)
        grouped = (
            pa.table({"label": named["label"], "score": finite})
            .group_by("label")
            .aggregate([("score", "sum"), ("score", "count"), ("label", "count")])
        )
        for row in grouped.to_pylist():
            name, (total, count) = row["label"], self._scores.get(row["label"], (0.0, 0))
            self._photos[name] = self._photos.get(name, 0) + row["label_count"]
            self._scores[name] = (total + (row["score_sum"] or 0.0), count + row["score_count"])
        if self._keep:
            self._add_unsure(rows.filter(pc.invert(failed)))

    def _add_unsure(self, rows: pa.Table) -> None:
        rows = rows.filter(pc.fill_null(pc.is_finite(rows["score"]), False))
        order = np.argsort(rows["score"].to_numpy(), kind="stable")[: self._keep]
        few = rows.take(pa.array(order)).to_pylist()
        found = [(row["score"], row["image_id"], row["label"], bool(row["abstained"])) for row in few]
        self._lowest = heapq.nsmallest(self._keep, [*self._lowest, *found])

    def result(self) -> Tally:
        """The counts so far."""
        names = [
            NameCount(name, photos, self._scores[name][0] / self._scores[name][1] if self._scores[name][1] else np.nan)
            for name, photos in self._photos.items()
        ]
        return Tally(
            self._rows,
            self._rows - self._abstained - self._failed,
            self._abstained,
            self._failed,
            sorted(names, key=lambda each: (-each.photos, each.name)),
            [Unsure(image, name, score, silent) for score, image, name, silent in self._lowest],
        )


def tally(predictions: Table, unsure: int = 0) -> Tally:
    """Counts over a predictions table, read part by part; keeps the `unsure` photos with the lowest scores."""
    counter = Counter(unsure)
    for rows in predictions.batches(COLUMNS):
        counter.add(rows)
    return counter.result()


def is_written(folder: str, version: str, rows: int) -> bool:
    """Whether the files in `folder` are those of this version of the predictions table, with this number of rows."""
    wanted = {PARQUET, NAMES, *({CSV} if rows <= MOST_CSV_ROWS else ())}
    if not wanted <= set(storage.list_files(folder)):
        return False
    filesystem, path = storage.arrow_filesystem(storage.join(folder, PARQUET))
    try:
        facts = pq.read_schema(path, filesystem=filesystem).metadata or {}
    except (OSError, pa.ArrowInvalid):  # somebody saved another file under this name: it is written again
        return False
    return bool(facts.get(MADE_FROM) == version.encode())


def write(folder: str, predictions: Table, samples: Rows) -> Tally:
    """Write the files, replacing earlier ones. Needs memory for one part of the predictions.

    Args:
        folder: where they go, a path or URL.
        predictions: the predictions table.
        samples: rows with the column uri by image id.
    """
    counter, with_csv = Counter(), predictions.rows <= MOST_CSV_ROWS
    if not with_csv:  # one of fewer photos would look like this table's
        storage.remove(storage.join(folder, CSV))
    schema = SCHEMA.with_metadata({MADE_FROM: predictions.version.encode()})
    with ExitStack() as stack:  # closed in reverse: the Parquet file, which says what all were made from, is the last
        sink = stack.enter_context(storage.new_file(storage.join(folder, PARQUET)))
        parquet = stack.enter_context(pq.ParquetWriter(sink, schema, compression="zstd"))
        csv = None
        if with_csv:
            text = stack.enter_context(storage.new_file(storage.join(folder, CSV)))
            csv = stack.enter_context(pacsv.CSVWriter(text, SCHEMA))
        for rows in predictions.batches(COLUMNS):
            counter.add(rows)
            some = _with_uris(rows, samples)
            parquet.write_table(some.cast(schema))
            if csv is not None:
                csv.write_table(some)
        storage.write_bytes(storage.join(folder, NAMES), _names_csv(counter.result()))
    return counter.result()


def _with_uris(rows: pa.Table, samples: Rows) -> pa.Table:
    failed = pc.or_(pc.is_null(rows["label"]), pc.is_valid(rows["error"]))
    silent = pc.fill_null(rows["abstained"], False)
    reasons, details = pc.struct_field(rows["error"], "reason"), pc.struct_field(rows["error"], "detail")
    said = pc.binary_join_element_wise(reasons, pc.fill_null(details, ""), ": ")
    why = pc.if_else(failed, pc.fill_null(said, "no answer"), pc.if_else(silent, "abstained: too unsure", None))
    columns = {
        "image_id": rows["image_id"],
        "uri": samples.take(rows["image_id"].to_numpy(), ["uri"])["uri"],
        "name": pc.if_else(pc.or_(failed, silent), None, rows["label"]),
        "score": pc.if_else(failed, None, rows["score"]),
        "abstained": pc.and_(silent, pc.invert(failed)),
        "guess": pc.if_else(failed, None, rows["label"]),
        "why": why,
    }
    return pa.table(columns).cast(SCHEMA)


def _names_csv(found: Tally) -> bytes:
    columns = {
        "name": pa.array([each.name for each in found.names], pa.string()),
        "photos": pa.array([each.photos for each in found.names], pa.int64()),
        "mean_score": pa.array([None if np.isnan(each.mean_score) else each.mean_score for each in found.names]),
    }
    sink = pa.BufferOutputStream()
    pacsv.write_csv(pa.table(columns), sink)
    return bytes(sink.getvalue())
