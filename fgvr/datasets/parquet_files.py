"""Parquet files with the bytes of images: rows become places, listed from footers and the columns beside the images."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fgvr.archives.parquet import ParquetDamage, groups, image_column, open_parquet
from fgvr.config.data import ParquetSource
from fgvr.datasets.rows import CHUNK, chunk
from fgvr.datasets.shards import Shard
from fgvr.datasets.table_file import class_names, metadata_json


def list_parquet(shard: Shard, source: ParquetSource) -> Iterator[pa.Table]:
    """Chunks of a file's listing; the image column itself is not read.

    Raises:
        ParquetDamage, pa.ArrowException, OSError: the file is damaged, lacks a column, or cannot be read.
    """
    file = open_parquet(shard.uri)
    column = image_column(file, source.image_column)
    wanted = [name for name in (source.class_column, source.split_column, *source.metadata_columns) if name is not None]
    lacking = [name for name in wanted if name not in file.schema_arrow.names]
    if lacking:
        there = ", ".join(file.schema_arrow.names[:20])
        raise ParquetDamage(f"there is no column {', '.join(lacking)}; there are {there}")
    folder = shard.folders[0] if source.split_from == "top" and shard.folders else None
    names = _hugging_face_names(file, source.class_column)
    for group in groups(file, column):
        uris = group.uris(shard.uri, source.image_column)
        if not wanted:
            for first in range(0, group.rows, CHUNK):
                part = uris.slice(first, CHUNK)
                yield chunk(uri=part, split=[folder] * len(part))
            continue
        first = 0
        for batch in file.iter_batches(
            CHUNK, row_groups=[group.number], columns=sorted(set(wanted)), use_threads=False
        ):
            yield _chunk(batch, uris.slice(first, len(batch)), source, folder, names)
            first += len(batch)


def _chunk(
    batch: pa.RecordBatch, uris: pa.Array, source: ParquetSource, folder: str | None, names: list[str] | None
) -> pa.Table:
    columns: dict[str, object] = {"uri": uris, "split": [folder] * len(uris)}
    if source.split_column is not None:
        columns["split"] = pc.utf8_trim_whitespace(batch[source.split_column].cast(pa.string()))
    if source.class_column is not None:
        values = batch[source.class_column]
        if names is not None and pa.types.is_integer(values.type):
            known = pc.if_else(pc.and_(pc.greater_equal(values, 0), pc.less(values, len(names))), values, None)
            values = pa.array(names, pa.string()).take(known)
        columns["class_name"] = class_names(values)
    if source.metadata_columns:
        columns["metadata"] = metadata_json(batch, source.metadata_columns)
    return chunk(**columns)


def _hugging_face_names(file: pq.ParquetFile, column: str | None) -> list[str] | None:
    """Names of a column of class numbers, as the library `datasets` keeps them in the schema's metadata."""
    try:
        facts = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])
        names = facts["info"]["features"][column]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None
