"""The caption database of CaSED: texts that people wrote beside pictures, from a file."""

from __future__ import annotations

import io
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from fgvr import storage
from fgvr.baselines import BaselineError
from fgvr.datasets.columns import ColumnError, as_text, find_column
from fgvr.datasets.csv_text import CsvText
from fgvr.datasets.rows import SourceError
from fgvr.text_files import lines


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
        texts: list[str | None] = list(lines(data.decode("utf-8-sig", errors="replace")))
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
        texts = _of_csv(data, uri, column) if kind == ".csv" else _of_parquet(data, uri, column)
        return list(texts.to_pylist())
    except (pa.ArrowException, SourceError, ColumnError, OSError) as error:
        raise BaselineError(f"baselines.cased.captions: {uri} cannot be read: {error}") from None


def _of_csv(data: bytes, uri: str, column: str) -> pa.ChunkedArray:
    text = CsvText(io.BytesIO(data), uri, tabs=False)
    if not text.header:
        raise SourceError("it is empty")
    place = _place(text.header, uri, column)
    return pa.chunked_array([batch[0] for batch in text.batches([place])], pa.string())


def _of_parquet(data: bytes, uri: str, column: str) -> pa.Array:
    file = pq.ParquetFile(pa.BufferReader(data))
    name = file.schema_arrow.names[_place(file.schema_arrow.names, uri, column)]
    return as_text(file.read([name]).column(0).combine_chunks(), column, "caption")


def _place(names: list[str], uri: str, column: str) -> int:
    place = find_column(names, column, "baselines.cased.column")
    if place is None:
        known = ", ".join(names)
        raise BaselineError(f"baselines.cased.column = {column}: {uri} has no such column (there are: {known})")
    return place
