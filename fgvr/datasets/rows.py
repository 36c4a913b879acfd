"""From listed images in any order to the rows of the samples table: sorted, without duplicates, with dense ids.

Listings come in chunks of Arrow memory and stay there: ten million rows are about two gigabytes and a minute.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fgvr.errors import UserError
from fgvr.schemas import SAMPLES

CHUNK = 65_536
"""Rows that a listing gathers before it hands them on."""

LISTING = pa.schema(
    [
        pa.field("uri", pa.large_string()),  # absolute; large, since ten million exceed 2 GiB of text
        pa.field("split", pa.string()),  # null or empty: train
        pa.field("class_id", pa.int32()),  # null in all rows: numbered here, by sorted class names
        pa.field("class_name", pa.string()),
        pa.field("metadata", pa.large_string()),
    ]
)
"""What a source yields: chunks of this schema, absent columns meaning null."""


class SourceError(UserError, ValueError):
    """A source that cannot be listed; the message names the config field or the file, and what was expected there."""


@dataclass(frozen=True)
class SampleRows:
    """A listed source.

    Attributes:
        rows: the samples table.
        duplicates: listed rows left out because an earlier one has the same URI.
        conflicts: of these, with another split or class than the row that was kept.
        without_uri: listed rows left out because they name no image.
        remarks: what a reader of the results must know about the source.
    """

    rows: pa.Table
    duplicates: int
    conflicts: int
    without_uri: int
    remarks: tuple[str, ...] = ()

    def parts(self, rows_per_part: int) -> Iterator[pa.Table]:
        """Consecutive slices, all but the last full."""
        for start in range(0, self.rows.num_rows, rows_per_part):
            yield self.rows.slice(start, rows_per_part)


def chunk(**columns: object) -> pa.Table:
    """A chunk of a listing from some of its columns; the others are null."""
    length = len(columns["uri"])  # type: ignore[arg-type]
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(length, field.type)
        for field in LISTING
    ]
    return pa.table(arrays, schema=LISTING)


def collect(chunks: Iterable[pa.Table], where: str) -> SampleRows:
    """Sort by URI, keep the first of equal ones, number images and classes densely.

    Args:
        chunks: tables of the schema `LISTING`.
        where: the source, for messages.

    Raises:
        SourceError: no row names an image, or a class has two ids.
    """
    listed = pa.concat_tables(chain([LISTING.empty_table()], chunks))
    named = listed.filter(pc.greater(pc.utf8_length(listed["uri"].fill_null("")), 0))
    if named.num_rows == 0:
        raise SourceError(f"{where}: no image is listed there ({listed.num_rows} rows without a URI)")
    ordered = named.take(pc.sort_indices(named["uri"]))  # a stable sort: of equal URIs the first listed comes first
    uris = ordered["uri"].combine_chunks()
    first = np.ones(ordered.num_rows, dtype=bool)
    first[1:] = pc.not_equal(uris.slice(1), uris.slice(0, len(uris) - 1)).to_numpy(zero_copy_only=False)
    ordered = ordered.set_column(1, LISTING.field("split"), _splits(ordered["split"]))
    rows = _with_ids(ordered.filter(pa.array(first)), where)
    return SampleRows(
        rows=rows,
        duplicates=int((~first).sum()),
        conflicts=_conflicts(ordered, first),
        without_uri=listed.num_rows - named.num_rows,
    )


def _splits(column: pa.ChunkedArray) -> pa.ChunkedArray:
    filled = column.fill_null("")
    return pc.if_else(pc.equal(filled, ""), "train", filled)


def _conflicts(ordered: pa.Table, first: np.ndarray) -> int:
    """Rows left out whose split or class differs from the kept row of the same URI."""
    left_out = np.flatnonzero(~first)
    kept = np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))[left_out]
    differs = np.zeros(len(left_out), dtype=bool)
    for name in ("split", "class_name"):
        ours, theirs = (ordered[name].fill_null("").take(pa.array(rows)) for rows in (left_out, kept))
        differs |= pc.not_equal(ours, theirs).to_numpy()
    return int(differs.sum())


def _with_ids(rows: pa.Table, where: str) -> pa.Table:
    columns = {name: rows[name] for name in LISTING.names}
    if rows["class_id"].null_count == rows.num_rows:
        columns["class_id"] = _number(rows["class_name"])
    else:
        _check_classes(rows, where)
    columns["image_id"] = pa.chunked_array([pa.array(np.arange(rows.num_rows, dtype=np.int64))])
    # Offsets of 32 bits hold 2 GiB a chunk; the parts that are written are far smaller.
    slices = [
        pa.table([columns[field.name].slice(start, CHUNK).cast(field.type) for field in SAMPLES], schema=SAMPLES)
        for start in range(0, rows.num_rows, CHUNK)
    ]
    return pa.concat_tables(slices)


def _number(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dense class ids in the order of the sorted names; null for null."""
    known = sorted(name for name in pc.unique(names).to_pylist() if name is not None)
    return pc.index_in(names, value_set=pa.array(known, pa.string())).cast(pa.int32())


def _check_classes(rows: pa.Table, where: str) -> None:
    pairs = rows.select(["class_id", "class_name"]).group_by(["class_id", "class_name"]).aggregate([])
    for name in ("class_id", "class_name"):
        values = [value for value in pairs[name].to_pylist() if value is not None]
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise SourceError(f"{where}: {name} {twice!r} stands for more than one class; ids and names go together")
