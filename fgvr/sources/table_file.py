"""A CSV, TSV or Parquet file with one row per image: its URI, and optionally its split, class and other columns."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fgvr import storage
from fgvr.config.data import TableSource
from fgvr.errors import UserError
from fgvr.names.spelling import one_form
from fgvr.sources.allowed_places import AllowedPlaces
from fgvr.sources.columns import Backslashes, ColumnError, as_text, check_kind, columns_there, find_column, near_miss
from fgvr.sources.csv_text import CsvText
from fgvr.sources.rows import CHUNK, SourceError, chunk

MOST_PADDED = 1000
"""Paths with blanks around them in a chunk; more of them are the table's way of writing, and no names of files."""


@dataclass(frozen=True)
class _Columns:
    """Positions of the columns that are read; other columns may hold anything, even the images themselves.

    Attributes:
        names: all column names of the file.
    """

    names: tuple[str, ...]
    uri: int
    split: int | None
    class_name: int | None
    class_id: int | None
    metadata: tuple[int, ...]

    @property
    def read(self) -> list[int]:
        """Positions of the columns to read, in the file's order."""
        found = {self.uri, self.split, self.class_name, self.class_id, *self.metadata}
        return sorted(place for place in found if place is not None)

    def text(self, batch: pa.RecordBatch, place: int, what: str) -> pa.Array:
        """One column, as text, of a batch whose columns are named by their positions."""
        return as_text(batch[str(place)], one_form(self.names[place]), what)


def read_table_file(
    source: TableSource,
    class_id_column: str | None = None,
    remarks: list[str] | None = None,
    allowed_roots: Sequence[str] = (),
) -> Iterator[pa.Table]:
    """Chunks of a listing, in the order of the file.

    Args:
        source: the file and the names of its columns.
        class_id_column: column of class ids, for files that this project writes itself.
        remarks: receives notes for a reader of the results; complete after the last chunk.
        allowed_roots: as in `ingest.limits`; rows that name other places fail.

    Raises:
        SourceError: no such file, an unknown format, a named column that is missing, present twice or of a wrong type,
            or rows that cannot be read; the message names the line if possible.
    """
    path = _path(source)
    folder = path.rsplit("/", 1)[0]
    backslashes = Backslashes(folder)
    allowed = AllowedPlaces(path, folder, allowed_roots)
    with _as_source_errors(source):
        open_batches = _parquet_batches if _is_parquet(path) else _csv_batches
        columns, batches = open_batches(path, source, class_id_column)
        if remarks is not None:
            remarks += _absent(source, columns)
        for batch in batches:
            rows = _as_chunk(batch, columns, source, folder, backslashes)
            yield rows.set_column(0, rows.schema.field(0), allowed.checked(rows["uri"].combine_chunks()))
    if remarks is not None:
        remarks += [*backslashes.remarks(), *allowed.remarks()]


def check_table_file(source: TableSource) -> None:
    """Check the file's header or schema only; raises SourceError as `read_table_file` does."""
    path = _path(source)
    with _as_source_errors(source):
        (_parquet_batches if _is_parquet(path) else _csv_batches)(path, source, None)


def _path(source: TableSource) -> str:
    path = storage.absolute(source.path)
    if not path.lower().endswith((".csv", ".tsv", ".parquet", ".pq")):
        raise SourceError(f"ingest.source.path = {source.path}: the name must end in .csv, .tsv or .parquet")
    if not storage.exists(path):
        raise SourceError(f"ingest.source.path = {source.path}: there is no such file")
    return path


def _is_parquet(path: str) -> bool:
    return path.lower().endswith((".parquet", ".pq"))


@contextmanager
def _as_source_errors(source: TableSource) -> Iterator[None]:
    """Turns any error of the file into a SourceError whose one sentence names the file."""
    try:
        yield
    except UserError:
        raise
    except (ColumnError, pa.ArrowException, OSError, UnicodeError) as error:
        # Not a Parquet file, rows of unequal length, text that is not UTF-8, a folder, or no permission to read it.
        said = re.sub(r"Row #(\d+)", r"row \1 below the header", str(error).strip("'"))
        hint = "; save the file as UTF-8" if "UTF8" in said else ""
        raise SourceError(f"ingest.source.path = {source.path}: {said}{hint}") from error


def _chosen(names: Sequence[str], source: TableSource, class_id_column: str | None) -> _Columns:
    """The columns that the source names; those with default names may be absent, except the URI column."""

    def needed(field: str, column: str) -> int:
        place = find_column(names, column, f"ingest.source.{field}")
        if place is None:
            raise SourceError(
                f"ingest.source.{field} = {column}: {source.path} has no such column; it has "
                f"{columns_there(names, field, column)}"
            )
        return place

    def named_or_there(field: str) -> int | None:
        column = getattr(source, field)
        if column is None:
            return None
        return (
            needed(field, column)
            if field in source.model_fields_set
            else find_column(names, column, f"ingest.source.{field}")
        )

    return _Columns(
        names=tuple(names),
        uri=needed("uri_column", source.uri_column),
        split=named_or_there("split_column"),
        class_name=named_or_there("class_column"),
        class_id=None if class_id_column is None else needed("class_id_column", class_id_column),
        metadata=tuple(needed("metadata_columns", column) for column in source.kept_columns),
    )


def _absent(source: TableSource, columns: _Columns) -> list[str]:
    """Notes if a column with a default name is missing but a similarly named one exists."""
    taken = {one_form(columns.names[place]) for place in columns.read}
    remarks = []
    for field, place, without in (
        ("split_column", columns.split, "every photo is of the split train"),
        ("class_column", columns.class_name, "no photo has a class"),
    ):
        column = getattr(source, field)
        near = None if place is not None or column is None else near_miss(columns.names, field, column, taken=taken)
        if near is not None:
            remarks.append(
                f"{source.path} has no column {column}, so that {without}; is {near} meant? ingest.source.{field}: "
                f"{json.dumps(near, ensure_ascii=False)} takes it"
            )
    return remarks


_Opened = tuple[_Columns, Iterator[pa.RecordBatch]]
"""The columns of a file, and its rows in batches whose columns are named by their positions in the file."""


def _parquet_batches(path: str, source: TableSource, class_id_column: str | None) -> _Opened:
    filesystem, inside = storage.arrow_filesystem(path)
    table = pq.ParquetFile(filesystem.open_input_file(inside))
    schema = table.schema_arrow
    columns = _chosen(schema.names, source, class_id_column)
    for place, what in ((columns.uri, "URI"), (columns.split, "split"), (columns.class_name, "class")):
        if place is not None:
            check_kind(one_form(schema.names[place]), schema.field(place).type, what)
    names = {schema.names[place]: str(place) for place in columns.read}

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in table.iter_batches(batch_size=CHUNK, columns=list(names)):
            there = [name for name in batch.schema.names if name in names]  # "a.b" also selects field b of a column a
            yield batch.select(there).rename_columns([names[name] for name in there])

    return columns, batches()


def _csv_batches(path: str, source: TableSource, class_id_column: str | None) -> _Opened:
    filesystem, inside = storage.arrow_filesystem(path)
    text = CsvText(filesystem.open_input_stream(inside), source.path, tabs=path.lower().endswith(".tsv"))
    if not text.header:
        raise SourceError(f"ingest.source.path = {source.path}: Empty CSV file: it has not even a header")
    columns = _chosen(text.header, source, class_id_column)
    return columns, text.batches(columns.read, columns.uri)


def _as_chunk(
    batch: pa.RecordBatch, columns: _Columns, source: TableSource, folder: str, backslashes: Backslashes
) -> pa.Table:
    uris = backslashes.turned(columns.text(batch, columns.uri, "URI"))
    listed: dict[str, object] = {"uri": absolute_uris(uris, folder)}
    if columns.split is not None:
        listed["split"] = columns.text(batch, columns.split, "split").cast(pa.string())
    if columns.class_name is not None:
        listed["class_name"] = columns.text(batch, columns.class_name, "class").cast(pa.string())
    if columns.class_id is not None:
        listed["class_id"] = batch[str(columns.class_id)].cast(pa.int32())
    if source.kept_columns:
        arrays = [batch[str(place)] for place in columns.metadata]
        listed["metadata"] = metadata_json(
            pa.RecordBatch.from_arrays(arrays, names=source.kept_columns), source.kept_columns
        )
    return chunk(**listed)


def metadata_json(batch: pa.RecordBatch, columns: Sequence[str]) -> list[str]:
    """The columns of each row as a JSON object; numbers that JSON lacks (NaN, infinity) become null.

    Raises ColumnError if a column holds values that have no text form.
    """
    kept = {column: _values(column, batch.column(batch.schema.names.index(column))) for column in columns}
    rows = [dict(zip(kept, values, strict=True)) for values in zip(*kept.values(), strict=True)]
    return [json.dumps(row, ensure_ascii=False, default=str, allow_nan=False) for row in rows]


def _values(name: str, column: pa.Array) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):  # times out of Python's range, duplicate field names
        return list(as_text(column, name, "value").to_pylist())
    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_nested(kind) or pa.types.is_dictionary(kind):
        return [_finite(value) for value in values]
    return values


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def absolute_uris(uris: pa.Array, folder: str) -> pa.Array:
    """URIs and absolute paths unchanged, relative paths joined to `folder`; each local file gets one spelling.

    Blanks around them are dropped, unless only the name with them is a file's.
    Vectorised, since tables have millions of rows: only paths with `.`, `..`, `//` or `file://` are handled singly.
    """
    written = uris.cast(pa.large_string()).fill_null("")
    text = _with_own_blanks(written, pc.utf8_trim_whitespace(written), folder)
    whole = pc.or_(pc.match_substring(text, "://"), pc.starts_with(text, "/"))
    below = pc.binary_join_element_wise(pa.scalar(folder, pa.large_string()), text, pa.scalar("/", pa.large_string()))
    joined = pc.if_else(pc.or_(whole, pc.equal(text, "")), text, below)
    odd = pc.match_substring_regex(joined, r"^file://|/\.{0,2}/|/\.{1,2}$")
    if not pc.any(odd).as_py():
        return joined
    plain = [
        _one_spelling(uri) if is_odd else uri for uri, is_odd in zip(joined.to_pylist(), odd.to_pylist(), strict=True)
    ]
    return pa.array(plain, pa.large_string())


def _with_own_blanks(written: pa.Array, text: pa.Array, folder: str) -> pa.Array:
    """`text`, with a local path as it was written where only that is there (" lead.png")."""
    padded = pc.and_(pc.not_equal(written, text), pc.not_equal(text, ""))
    if not storage.is_local(folder) or not 0 < (pc.sum(padded).as_py() or 0) <= MOST_PADDED:
        return text
    pairs = zip(written.filter(padded).to_pylist(), text.filter(padded).to_pylist(), strict=True)
    chosen = [
        own if "://" not in own and _is_there(folder, own) and not _is_there(folder, plain) else plain
        for own, plain in pairs
    ]
    return pc.replace_with_mask(text, padded, pa.array(chosen, pa.large_string()))


def _is_there(folder: str, path: str) -> bool:
    return os.path.exists(os.path.join(str(storage.local_path(folder)), path))  # noqa: PTH110, PTH118  # as it is written


def _one_spelling(uri: str) -> str:
    if not storage.is_local(uri):
        return uri  # an object's key is literal: `a//b` and `a/b` are two objects
    # normpath keeps two leading slashes
    return storage.file_uri(Path("/" + os.path.normpath(storage.local_path(uri)).lstrip("/")))
