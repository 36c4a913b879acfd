"""Were files replaced under the same name since they were listed? Decided by marks that a listing gives for free.

The marks are size and time of a file, ETag and size of an object: for folders of photos, and for tars and Parquet
files, which are few. Of images that a table or a data set's lists name, those on disks are checked; in object stores
and on the web each would take a request.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice

from fgvr import storage
from fgvr.config.data import (
    CocoSource,
    FolderSource,
    LayoutSource,
    ParquetSource,
    Source,
    TableSource,
    WebDatasetSource,
)
from fgvr.digests import version_of
from fgvr.images.places import ParquetPlace, TarPlace, file_of, is_inside, parse
from fgvr.sources.folder import Found, readable_endings, walk
from fgvr.sources.omissions import LeftOutNames, Omissions
from fgvr.sources.rows import SourceError
from fgvr.sources.shards import numbered

MOST = 100_000
"""Most files that are checked at each start: a second on a disk, a hundred requests to a store."""
Marks = dict[str, str]
"""URI → mark."""


def look(source: Source, before: Marks | None, allowed_roots: Sequence[str] = ()) -> Marks | None:
    """The marks of a source's files as they are now; None for source kinds without marks, and for too many files.

    Args:
        source: where the photos are.
        before: their marks when they were listed; what a list names is known only from there.
        allowed_roots: those that the source is listed with.
    """
    if names_photos(source):
        return None if before is None else _there(before)
    found: Marks = {}
    with suppress(SourceError, OSError):  # the listing itself will report the error
        for file in islice(_files(source, allowed_roots), MOST + 1):
            found[file.uri] = file.mark or _mark(file.uri)
    return found if 0 < len(found) <= MOST else None


def names_photos(source: Source) -> bool:
    """Whether the source is a list that names photos, which may lie anywhere."""
    return isinstance(source, TableSource | LayoutSource | CocoSource)


def look_at_named(uris: Sequence[str]) -> Marks | None:
    """The marks of those named photos that are on disks; None where none is, or where more are named than MOST.

    Args:
        uris: as in the samples table. A photo inside of a tar or Parquet file has the mark of that file.
    """
    return (_there(filter(None, map(_local_file, uris))) or None) if len(uris) <= MOST else None


def _there(uris: Iterable[str]) -> Marks:
    """Marks of the files that exist."""
    return {uri: mark for uri in uris if (mark := _mark(uri))}


def _local_file(uri: str) -> str | None:
    """The file on a disk that holds a photo; None for other places, and for rows that stand for no photo."""
    if is_inside(uri):
        try:
            place = parse(uri)
        except ValueError:
            return None
        match place:
            case TarPlace():
                uri = place.shard
            case ParquetPlace():
                uri = place.file
            case _:
                return None
    return uri if uri and storage.is_local(uri) else None


def replaced(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Sorted names of files that still exist but were replaced. New and missing files do not matter here."""
    return sorted(uri for uri, mark in before.items() if now.get(uri, mark) != mark)


def digest(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """A hash, 16 hex digits, of the current marks of the files in `before`."""
    listed = sorted((uri, now.get(uri, mark)) for uri, mark in before.items())
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]


def _files(source: Source, allowed_roots: Sequence[str]) -> Iterator[Found]:
    if not isinstance(source, FolderSource | WebDatasetSource | ParquetSource):
        return
    ending: str | tuple[str, ...] = ".tar" if isinstance(source, WebDatasetSource) else ".parquet"
    if isinstance(source, FolderSource):
        ending = readable_endings(source.extensions)
    elif len(names := numbered(source.path)) > 1 or source.path.lower().endswith(ending):
        yield from (Found(file_of(name), ()) for name in names)
        return
    for file in walk(source.path, LeftOutNames(source.exclude, Omissions()), allowed_roots):
        if file.uri.lower().endswith(ending):
            yield file


def _mark(uri: str) -> str:
    """A mark that changes if the file is replaced; empty if it does not exist."""
    try:
        if not storage.is_local(uri):
            fs, path = storage.resolve(uri)
            return version_of(fs.info(path))
        facts = storage.local_path(uri).stat()
    except OSError:
        return ""
    return f"{facts.st_size}-{facts.st_mtime_ns}"
