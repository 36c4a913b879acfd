"""The caption database of CaSED: texts that people wrote beside pictures, from a file."""

from __future__ import annotations

import io
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from fgvr import storage
from fgvr.baselines import BaselineError


def read_captions(uri: str, column: str) -> list[str]:
    """Distinct captions in the file's order, blanks at their ends removed.

    Args:
        uri: `.csv` or `.parquet` with `column`, or `.txt` with a caption a line.
        column: of the captions.

    Raises:
        BaselineError: no such file, an unknown kind of file, no such column, or no caption in it.
    """
    try:
        data = storage.read_bytes(uri)
    except (FileNotFoundError, IsADirectoryError):
        raise BaselineError(f"baselines.cased.captions: there is no file {uri}") from None
    kind = PurePosixPath(uri).suffix.lower()
    if kind == ".txt":
        texts: list[str | None] = list(data.decode("utf-8", errors="replace").splitlines())
    elif kind in {".csv", ".parquet"}:
        texts = _column(data, kind, uri, column)
    else:
        raise BaselineError(f"baselines.cased.captions: {uri} is none of .csv, .parquet and .txt")
    captions = list(dict.fromkeys(text.strip() for text in texts if text and text.strip()))
    if not captions:
        raise BaselineError(f"baselines.cased.captions: there is no caption in {uri}")
    return captions


def _column(data: bytes, kind: str, uri: str, column: str) -> list[str | None]:
    try:
        if kind == ".csv":
            options = csv.ConvertOptions(column_types={column: pa.string()})
            table = csv.read_csv(
                io.BytesIO(data), convert_options=options, parse_options=csv.ParseOptions(newlines_in_values=True)
            )
        else:
            table = pq.read_table(pa.BufferReader(data))
    except pa.ArrowInvalid as error:
        raise BaselineError(f"baselines.cased.captions: {uri} cannot be read: {error}") from None
    if column not in table.column_names:
        raise BaselineError(
            f"baselines.cased.column = {column}: {uri} has no such column (there are: {', '.join(table.column_names)})"
        )
    return list(table[column].cast(pa.string()).to_pylist())
