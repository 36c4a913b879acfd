"""Columns of the metadata that the samples table keeps, as texts and as numbers.

The samples table keeps them as one JSON object per photo. Here they become columns of text, whatever the file had, so
that a CSV and a Parquet file of the same values give the same: `true` and `false`, numbers as JSON writes them, null
for what is empty or absent. `numbers` reads them as numbers again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgvr.arrays import Ids
from fgvr.tables import Table


def metadata_batches(samples: Table, ids: Ids | None, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Columns of the metadata, one part of the samples at a time: `image_id` and a string column per name.

    Args:
        samples: the samples table.
        ids: photos, int64 [n], ascending; None: all.
        columns: keys of the metadata; what a photo lacks is null.
    """
    wanted = ["image_id", "metadata"]
    for rows in samples.batches(wanted) if ids is None else samples.batches_of(ids, wanted):
        yield pa.table({"image_id": rows["image_id"], **columns_of(rows, columns)})


def columns_of(rows: pa.Table, columns: Sequence[str]) -> dict[str, pa.Array]:
    """The columns of rows of the samples table, by name; all null where the rows have no `metadata`."""
    if not columns:
        return {}
    stored = rows["metadata"].to_pylist() if "metadata" in rows.column_names else [None] * rows.num_rows
    facts = [_facts(text) for text in stored]
    return {column: pa.array([as_text(fact.get(column)) for fact in facts], pa.string()) for column in columns}


def metadata(samples: Table, ids: Ids | None, columns: Sequence[str]) -> pa.Table:
    """The same as one table, in the order of the ids."""
    return pa.concat_tables(metadata_batches(samples, ids, columns)).combine_chunks()


def as_text(value: Any) -> str | None:
    """A JSON value as text without blanks around it; None for null and for what is blank."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.strip() or None


def numbers(texts: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Text as numbers, float64 [n]: NaN where there is none, and for what is no finite number.

    `true` and `false` are 1 and 0. Count what became NaN beside what was null before you rely on the rest.
    """
    values = np.full(len(texts), np.nan)
    for place, text in enumerate(texts.to_pylist()):
        values[place] = _number(text)
    return values


def missing(texts: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Which values are absent: bool [n]."""
    absent: npt.NDArray[np.bool_] = pc.is_null(texts).to_numpy(zero_copy_only=False)
    return absent


def _facts(text: str | None) -> dict[str, Any]:
    facts = {} if text is None else json.loads(text)
    return facts if isinstance(facts, dict) else {}


def _number(text: str | None) -> float:
    if text is None:
        return np.nan
    if text.lower() in {"true", "false"}:
        return float(text.lower() == "true")
    if "_" in text:  # Python's float takes 1_000
        return np.nan
    try:
        value = float(text)
    except ValueError:
        return np.nan
    return value if np.isfinite(value) else np.nan
