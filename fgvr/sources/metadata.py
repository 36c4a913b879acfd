"""Columns of a source's metadata (price, sender, month …) for stages that compute with them: are they kept?

How they are read: `fgvr.metadata.stored`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

from fgvr.config.data import ParquetSource, Source, TableSource
from fgvr.errors import UserError

SHOWN: Final = 20
"""How many columns a message lists."""


class MetadataError(UserError, ValueError):
    """A column is asked for that the source does not keep; the message names the config field and the columns."""


def check_columns(source: Source, columns: Sequence[str], field: str) -> None:
    """Check before anything starts that a source keeps the columns that a config field names.

    Args:
        source: `ingest.source`.
        columns: their names.
        field: the config field that names them, for the message.

    Raises:
        MetadataError: the source keeps no such column.
    """
    if not columns:
        return
    if not isinstance(source, TableSource | ParquetSource):
        raise MetadataError(
            f"{field} = {_listed(columns)}: photos of kind {source.kind} have no columns; list them in a file "
            "(ingest.source.kind table or parquet) and name its columns in ingest.source.metadata_columns"
        )
    for column in columns:
        if column not in source.kept_columns:
            there = _listed(source.kept_columns) or "none"
            raise MetadataError(
                f"{field}: {column} is not among ingest.source.metadata_columns ({there})"
                f"{_meant(column, source.kept_columns)}; name it there"
            )


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(columns[:SHOWN]) + (" …" if len(columns) > SHOWN else "")


def _meant(column: str, there: Sequence[str]) -> str:
    close = difflib.get_close_matches(column, there, n=1)
    return f"; is {close[0]} meant?" if close else ""
