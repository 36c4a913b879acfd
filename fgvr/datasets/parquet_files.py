"""Parquet files with the bytes of images: rows become places, listed from footers and the columns beside the images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fgvr.archives.parquet import ParquetDamage, groups, image_column, open_parquet
from fgvr.class_names import one_form
from fgvr.config.data import ParquetSource
from fgvr.datasets.columns import ColumnError, as_text, check_kind, columns_there, find_column
from fgvr.datasets.rows import CHUNK, chunk
from fgvr.datasets.shards import Shard
from fgvr.datasets.table_file import metadata_json


def list_parquet(shard: Shard, source: ParquetSource) -> Iterator[pa.Table]:
    """Chunks of a file's listing; the image column itself is not read.

    Raises:
        ParquetDamage, pa.ArrowException, OSError: the file is damaged, lacks a column, or cannot be read.
    """
    file = open_parquet(shard.uri)
    try:
        columns = _columns(file, source)
    except ColumnError as error:
        raise ParquetDamage(str(error)) from None
    column = image_column(file, columns.image)
    wanted = sorted({name for name in (columns.class_name, columns.split, *columns.metadata) if name is not None})
    folder = shard.folders[0] if source.split_from == "top" and shard.folders else None
    for group in groups(file, column):
        uris = group.uris(shard.uri, columns.image)
        if not wanted:
            for first in range(0, group.rows, CHUNK):
                part = uris.slice(first, CHUNK)
                yield chunk(uri=part, split=[folder] * len(part))
            continue
        first = 0
        for batch in file.iter_batches(CHUNK, row_groups=[group.number], columns=wanted, use_threads=False):
            try:
                yield _chunk(batch, uris.slice(first, len(batch)), source, columns, folder)
            except ColumnError as error:
                raise ParquetDamage(str(error)) from None
            first += len(batch)


@dataclass(frozen=True)
class _Columns:
    """The names, as the file spells them, of the column of images and of those beside it that are read.

    `hugging_face` has the names of a column of class numbers.
    """

    image: str
    class_name: str | None
    split: str | None
    metadata: tuple[str, ...]
    hugging_face: list[str] | None


def _columns(file: pq.ParquetFile, source: ParquetSource) -> _Columns:
    """The columns that the source names; raises ColumnError where one is not there, or holds several values a row."""
    schema = file.schema_arrow

    def needed(field: str, column: str) -> str:
        place = find_column(schema.names, column, f"ingest.source.{field}")
        if place is None:
            known = columns_there(schema.names, field, column)
            raise ColumnError(f"there is no column {column}; there are {known} (ingest.source.{field})")
        return str(schema.names[place])

    image = needed("image_column", source.image_column)
    class_name = None if source.class_column is None else needed("class_column", source.class_column)
    split = None if source.split_column is None else needed("split_column", source.split_column)
    for name, what in ((class_name, "class"), (split, "split")):
        if name is not None:
            check_kind(one_form(name), schema.field(name).type, what)
    metadata = tuple(needed("metadata_columns", name) for name in source.metadata_columns)
    return _Columns(image, class_name, split, metadata, _hugging_face_names(file, class_name))


def _chunk(
    batch: pa.RecordBatch,
    uris: pa.Array,
    source: ParquetSource,
    columns: _Columns,
    folder: str | None,
) -> pa.Table:
    names = columns.hugging_face
    listed: dict[str, object] = {"uri": uris, "split": [folder] * len(uris)}
    if columns.split is not None:
        listed["split"] = as_text(batch[columns.split], columns.split, "split").cast(pa.string())
    if columns.class_name is not None:
        values = batch[columns.class_name]
        if names is not None and pa.types.is_integer(values.type):
            known = pc.if_else(pc.and_(pc.greater_equal(values, 0), pc.less(values, len(names))), values, None)
            values = pa.array(names, pa.string()).take(known)
        listed["class_name"] = as_text(values, columns.class_name, "class").cast(pa.string())
    if columns.metadata:
        kept = pa.RecordBatch.from_arrays([batch[name] for name in columns.metadata], names=source.metadata_columns)
        listed["metadata"] = metadata_json(kept, source.metadata_columns)
    return chunk(**listed)


def _hugging_face_names(file: pq.ParquetFile, column: str | None) -> list[str] | None:
    """Names of a column of class numbers, as the library `datasets` keeps them in the schema's metadata."""
    try:
        facts = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])
        names = facts["info"]["features"][column]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None
