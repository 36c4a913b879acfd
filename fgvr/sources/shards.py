"""Container files with many images each, found and listed in parallel: tars, and Parquet files with image bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fgvr.config.data import ParquetSource
from fgvr.images.parquet import ParquetDamage, groups, image_column, open_parquet
from fgvr.images.places import Unlisted, file_of
from fgvr.images.tar import TarDamage
from fgvr.names.spelling import one_form
from fgvr.prefetch import read_ahead
from fgvr.schemas import Reason
from fgvr.sources.columns import ColumnError, as_text, check_kind, columns_there, find_column
from fgvr.sources.folder import walk
from fgvr.sources.omissions import LeftOutNames, Omissions, Why, ending_of, sentences
from fgvr.sources.rows import CHUNK, LISTING, SourceError, chunk
from fgvr.sources.sorted_runs import Spool
from fgvr.sources.table_file import metadata_json

# Container files are found, listed in parallel, and given out in order. A damaged one becomes a row.

THREADS: Final = 8
"""How many files are listed in parallel: the time goes into waiting for a disk or network."""
MOST_NUMBERED: Final = 1_000_000

_NUMBERS: Final = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
_PACKED: Final = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")


@dataclass(frozen=True)
class Shard:
    """A container file: its URI as in `fgvr.images.places`, and the folders between the source's path and it.

    `refused` is the URI of a failing row that replaces it: a link to a place that the source may not read.
    """

    uri: str
    folders: tuple[str, ...] = ()
    refused: str = ""


@dataclass
class Shards:
    """The container files of a source; after `chunks` was consumed, `bad` says what was wrong with which file.

    Attributes:
        path: the source's path, for messages.
        files: in URI order.
        bad: one text per file that could not be read to its end.
    """

    path: str
    files: list[Shard]
    bad: list[str] = field(default_factory=list)

    def chunks(self, listed: Callable[[Shard], Iterator[pa.Table]]) -> Iterator[pa.Table]:
        """The listings of all files, in order; a damaged file's listing ends with a row for the damage.

        Args:
            listed: returns the chunks of a file's listing; called in threads.

        Raises:
            SourceError: there is damage, and not a single image.
        """
        images = 0
        for rows, problem in read_ahead(lambda shard: _listed(shard, listed), self.files, threads=THREADS):
            if problem is not None:
                self.bad.append(problem)
            images += rows.rows - (problem is not None)
            yield from rows
        if self.bad and not images:
            raise SourceError(f"ingest.source.path = {self.path}: no image can be listed; {self.bad[0]}")


def find_shards(
    path: str,
    ending: str,
    exclude: Sequence[str] = (),
    omissions: Omissions | None = None,
    allowed_roots: Sequence[str] = (),
) -> Shards:
    """The files that a source's `path` names: itself, a numbered range, or those below it that end in `ending`.

    Args:
        path: the source's path.
        ending: `.tar` or `.parquet`.
        exclude: names of files and folders that are skipped (`ingest.source.exclude`).
        omissions: counts the other files below `path`.
        allowed_roots: as in `ingest.limits`; places where links may lead.

    Raises:
        SourceError: there are no such files, or compressed tars among them.
    """
    if path.lower().startswith(("http://", "https://")):
        raise SourceError(
            f"ingest.source.path = {path}: files with many images are read from disks and object stores; download "
            "them, or list single images by URL (ingest.source.kind: table)"
        )
    names = numbered(path)
    single = len(names) > 1 or path.lower().endswith((ending, *_PACKED))
    if single:
        found = [Shard(file_of(name)) for name in names]
    else:
        omissions = omissions or Omissions()
        found = []
        for file in walk(path, LeftOutNames(exclude, omissions), allowed_roots):
            if file.uri.lower().endswith((ending, *_PACKED)):
                found.append(Shard(file_of(file.uri), file.folders, file.refused))
            else:
                omissions.count(Why.NO_ARCHIVE, ending_of(file.uri))
    packed = [shard.uri for shard in found if shard.uri.lower().endswith(_PACKED)]
    if packed and ending == ".tar":
        raise SourceError(
            f"ingest.source.path = {path}: {len(packed)} compressed archives ({packed[0]} …). Workers read single "
            "images from the middle of a file, which a compressed one does not allow: unpack each to a plain .tar; "
            "photos are compressed already, so that it grows little"
        )
    found = [shard for shard in found if shard.uri.lower().endswith(ending)]
    if not found:
        there = "" if omissions is None else "; ".join(sentences(omissions.facts()).values())
        raise SourceError(f"ingest.source.path = {path}: no file ends in {ending}{there and f' ({there})'}")
    return Shards(path, sorted(found, key=lambda shard: shard.uri))


def numbered(path: str) -> list[str]:
    """`a-{08..11}.tar` expanded to a-08.tar … a-11.tar; any other path unchanged.

    Raises:
        SourceError: the numbers descend, or there are more than a million.
    """
    found = _NUMBERS.search(path)
    if found is None:
        return [path]
    first, last = int(found[1]), int(found[2])
    if not first <= last < first + MOST_NUMBERED:
        raise SourceError(f"ingest.source.path = {path}: {found[0]} must rise, by at most {MOST_NUMBERED:,} numbers")
    width = len(found[1])
    return [f"{path[: found.start()]}{number:0{width}d}{path[found.end() :]}" for number in range(first, last + 1)]


def _listed(shard: Shard, listed: Callable[[Shard], Iterator[pa.Table]]) -> tuple[Spool, str | None]:
    rows = Spool(LISTING, memory_bytes=8 * 2**20)
    if shard.refused:
        rows.append(chunk(uri=[shard.refused]))
        return rows, f"{shard.uri}: a link to outside of the source; ingest.limits.allowed_roots may name the place"
    try:
        for table in listed(shard):
            rows.append(table)
    except FileNotFoundError:
        reason, detail = Reason.NOT_FOUND, "there is no such file"
    except (TarDamage, ParquetDamage, pa.ArrowInvalid) as error:
        reason, detail = Reason.CORRUPT, str(error)
    except (OSError, pa.ArrowException) as error:  # permission, network, and Arrow's error for some kinds of damage
        reason, detail = Reason.UNREADABLE, f"{type(error).__name__}: {error}"
    else:
        return rows, None
    rows.append(chunk(uri=[Unlisted(shard.uri, reason, detail).uri]))
    return rows, f"{shard.uri}: {detail}"


# Parquet files with image bytes: the listing is made from footers and from the columns beside the images.


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
    """The image column and the other columns that are read, under their names in the file.

    `hugging_face` holds the class names of a column of class numbers.
    """

    image: str
    class_name: str | None
    split: str | None
    metadata: tuple[str, ...]
    hugging_face: list[str] | None


def _columns(file: pq.ParquetFile, source: ParquetSource) -> _Columns:
    """The columns that the source names; raises ColumnError if one is missing or holds several values per row."""
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
    metadata = tuple(needed("metadata_columns", name) for name in source.kept_columns)
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
        kept = pa.RecordBatch.from_arrays([batch[name] for name in columns.metadata], names=source.kept_columns)
        listed["metadata"] = metadata_json(kept, source.kept_columns)
    return chunk(**listed)


def _hugging_face_names(file: pq.ParquetFile, column: str | None) -> list[str] | None:
    """The class names for a column of class numbers, as the library `datasets` stores them in the schema's metadata."""
    try:
        facts = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])
        names = facts["info"]["features"][column]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None
