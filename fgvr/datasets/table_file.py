"""A CSV or Parquet file with an image's URI a row, and optionally its split, class and other columns."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from fgvr import storage
from fgvr.config.data import TableSource
from fgvr.datasets.rows import CHUNK, SourceError, chunk


def read_table_file(source: TableSource, class_id_column: str | None = None) -> Iterator[pa.Table]:
    """Chunks of a listing, in the order of the file.

    Args:
        source: the file and the names of its columns.
        class_id_column: column with class ids, for files that this project writes itself.

    Raises:
        SourceError: no such file, an unknown format, or a column that is not there.
    """
    path = storage.absolute(source.path)
    parquet = path.lower().endswith((".parquet", ".pq"))
    if not parquet and not path.lower().endswith((".csv", ".tsv")):
        raise SourceError(f"ingest.source.path = {source.path}: the name must end in .csv, .tsv or .parquet")
    if not storage.exists(path):
        raise SourceError(f"ingest.source.path = {source.path}: there is no such file")
    folder = path.rsplit("/", 1)[0]
    try:
        for batch in (_parquet_batches if parquet else _csv_batches)(path, source, class_id_column):
            yield _as_chunk(batch, source, folder, class_id_column)
    except pa.ArrowInvalid as error:  # not a Parquet file, rows of unequal length, text that is not UTF-8
        raise SourceError(f"ingest.source.path = {source.path}: {error}") from error


def _wanted(there: list[str], source: TableSource, class_id_column: str | None) -> list[str]:
    """The columns that are read; a table may have others of any size, the images themselves among them."""
    needed = [("uri_column", source.uri_column), ("class_id_column", class_id_column)]
    needed += [("metadata_columns", column) for column in source.metadata_columns]
    for field, column in needed:
        if column is not None and column not in there:
            raise SourceError(
                f"ingest.source.{field} = {column}: {source.path} has no such column; it has {', '.join(there)}"
            )
    wanted = {source.split_column, source.class_column, *(column for _, column in needed)}
    return [name for name in there if name in wanted]


def _parquet_batches(path: str, source: TableSource, class_id_column: str | None) -> Iterator[pa.RecordBatch]:
    filesystem, inside = storage.arrow_filesystem(path)
    with filesystem.open_input_file(inside) as file:
        table = pq.ParquetFile(file)
        columns = _wanted(table.schema_arrow.names, source, class_id_column)
        yield from table.iter_batches(batch_size=CHUNK, columns=columns)


def _csv_batches(path: str, source: TableSource, class_id_column: str | None) -> Iterator[pa.RecordBatch]:
    filesystem, inside = storage.arrow_filesystem(path)
    parse = pacsv.ParseOptions(delimiter="\t" if path.lower().endswith(".tsv") else ",", newlines_in_values=True)
    with filesystem.open_input_stream(inside) as head:
        first = pacsv.open_csv(head, parse_options=parse)
        names = first.schema.names
    # All columns as text: "0123" is a name, and types guessed from the first block break on the second.
    convert = pacsv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        strings_can_be_null=True,
        include_columns=_wanted(names, source, class_id_column),
    )
    with filesystem.open_input_stream(inside) as file:
        yield from pacsv.open_csv(file, parse_options=parse, convert_options=convert)


def _as_chunk(batch: pa.RecordBatch, source: TableSource, folder: str, class_id_column: str | None) -> pa.Table:
    names = batch.schema.names
    columns: dict[str, object] = {"uri": absolute_uris(batch[source.uri_column], folder)}
    if source.split_column in names:
        columns["split"] = pc.utf8_trim_whitespace(batch[source.split_column].cast(pa.string()))
    if source.class_column in names:
        columns["class_name"] = class_names(batch[source.class_column])
    if class_id_column is not None:
        columns["class_id"] = batch[class_id_column].cast(pa.int32())
    if source.metadata_columns:
        columns["metadata"] = metadata_json(batch, source.metadata_columns)
    return chunk(**columns)


def class_names(column: pa.Array) -> pa.Array:
    """A column of classes as names; an empty one is none."""
    name = column.cast(pa.string())
    return pc.if_else(pc.equal(name, ""), None, name)


def metadata_json(batch: pa.RecordBatch, columns: Sequence[str]) -> list[str]:
    """The columns of each row as a JSON object."""
    kept = {column: batch[column].to_pylist() for column in columns}
    return [
        json.dumps(dict(zip(kept, values, strict=True)), ensure_ascii=False, default=str)
        for values in zip(*kept.values(), strict=True)
    ]


def absolute_uris(uris: pa.Array, folder: str) -> pa.Array:
    """URIs and absolute paths as they are, relative ones below `folder`; one spelling for one local file.

    Vectorised, since tables have millions of rows: only paths with `.`, `..`, `//` or `file://` are handled one by one.
    """
    text = pc.utf8_trim_whitespace(uris.cast(pa.large_string())).fill_null("")
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


def _one_spelling(uri: str) -> str:
    if not storage.is_local(uri):
        return uri  # an object's key is taken literally: `a//b` and `a/b` are two objects
    # normpath leaves two leading slashes alone
    return storage.file_uri(Path("/" + os.path.normpath(storage.local_path(uri)).lstrip("/")))
