"""What a file of answers says, whatever its format: chunks of rows of one schema, each about one photo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from fgvr.errors import UserError

GIVEN = pa.schema(
    [
        ("rank", pa.float64()),  # 1 = best; null: none is given
        ("answer", pa.large_string()),  # as in the file; null: the cell is empty, or the request failed
        ("score", pa.float64()),  # null or NaN: none is given
        ("cut", pa.bool_()),  # whether the token limit ended the answer; null: not known
        ("failure", pa.large_string()),  # why the row has no answer, as "reason: detail"; null otherwise
        ("row", pa.int64()),  # number of the row or line in the file, from 1
    ]
)
"""What a row says, besides the photo that it is about."""


class AnswerFileError(UserError, ValueError):
    """A file of answers that cannot be used; the message names the field and the row."""


@dataclass(frozen=True)
class Chunk:
    """Rows of a file of answers.

    Attributes:
        keys: the photos' URIs (text), or their image ids (int64); null where the row names none.
        rows: of the schema `GIVEN`.
    """

    keys: pa.Array
    rows: pa.Table


@dataclass(frozen=True)
class GivenAnswers:
    """An opened file.

    Attributes:
        by_id: whether its rows are keyed by image id, and not by URI.
        chunks: its rows; reading may raise AnswerFileError.
    """

    by_id: bool
    chunks: Iterator[Chunk]


def chunk_of(count: int, **columns: pa.Array | None) -> pa.Table:
    """A table of the schema `GIVEN` from some of its columns; the others are null."""
    arrays = [pa.nulls(count, each.type) if (found := columns.get(each.name)) is None else found for each in GIVEN]
    return pa.table(arrays, schema=GIVEN)
