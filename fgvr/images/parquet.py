"""Images in a column of Parquet files: the listing describes row groups, workers read single rows.

A part's rows come in order, so a row group is streamed only once for all of them: page by page instead of the whole
column, value by value instead of a page, and the last 64 values are kept for threads that ask slightly out of
order. Random access restarts the row group; training therefore reads from its own store of decoded images.
"""

from __future__ import annotations

import math
import os
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fgvr import storage
from fgvr.images.places import PARQUET, ParquetPlace
from fgvr.store_waits import TooSlow

KEPT_ROWS: Final = 64
"""How many values stay in memory after they were read."""
OPEN_GROUPS: Final = 3
"""How many row groups a process keeps open in parallel."""
PAUSE_SECONDS: Final = 300.0
"""How long a row group is left alone that was too slow for one photo; its further photos fail meanwhile."""

_OPEN: Final[OrderedDict[tuple[int, str, int, str], _GroupRows]] = OrderedDict()
_LOCK: Final = Lock()
_LARGE: Final = 8 * 2**20
_SMALL: Final = 64 * 2**10
_NEAR: Final = 2**20
"""If the gap between two reads is below this many bytes, reading through it is faster than a new request."""


class ParquetDamage(Exception):
    """A row cannot be read; the message says why."""


@dataclass(frozen=True)
class Group:
    """A row group: its number, its row count, and a `mark` that differs if the file was replaced by another version."""

    number: int
    rows: int
    mark: str

    def uris(self, file: str, column: str) -> pa.Array:
        """The URIs of an image column's rows, as in `fgvr.images.places`; vectorised, since there are millions."""
        numbers = pa.array(np.arange(self.rows)).cast(pa.string())
        padded = pc.utf8_lpad(numbers, 9, "0").cast(pa.large_string())
        start, end = f"{PARQUET}{file}#{self.number:06d}.", f"/{self.mark}/{quote(column)}"
        texts = [pa.scalar(text, pa.large_string()) for text in (start, end, "")]
        return pc.binary_join_element_wise(texts[0], padded, texts[1], texts[2])


def open_parquet(uri: str) -> pq.ParquetFile:
    """Open a file for streaming: one MiB at a time, with page checksums verified."""
    filesystem, path = storage.arrow_filesystem(uri)
    if storage.is_local(uri):
        storage.open_regular(storage.local_path(uri)).close()  # Arrow would block on a pipe
    return pq.ParquetFile(
        filesystem.open_input_file(path), pre_buffer=False, buffer_size=2**20, page_checksum_verification=True
    )


def image_column(file: pq.ParquetFile, name: str) -> str:
    """The column's path in the file: `name`, or `name.bytes` as in Hugging Face data sets.

    Raises ParquetDamage if there is no such column or it does not hold bytes.
    """
    names = file.schema_arrow.names
    if name not in names:
        raise ParquetDamage(f"there is no column {name}; there are {', '.join(names[:20])}")
    kind = file.schema_arrow.field(name).type
    path = name
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind, path = kind.field("bytes").type, f"{name}.bytes"
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise ParquetDamage(f"column {name} holds {kind} instead of the bytes of image files")
    return path


def groups(file: pq.ParquetFile, column: str) -> Iterator[Group]:
    """The row groups of an open file, read from its footer only."""
    for number in range(file.metadata.num_row_groups):
        yield _group(file, number, column)


def _group(file: pq.ParquetFile, number: int, column: str) -> Group:
    facts = file.metadata.row_group(number)
    for place in range(facts.num_columns):
        stored = facts.column(place)
        if stored.path_in_schema == column:
            sizes = (facts.num_rows, stored.data_page_offset, stored.total_compressed_size)
            return Group(number, facts.num_rows, f"{zlib.crc32(repr(sizes).encode()):08x}")
    raise ParquetDamage(f"row group {number} has no column {column}")


def read_row(place: ParquetPlace, max_bytes: int) -> bytes:
    """The bytes in a row: b"" for null, only `max_bytes` + 1 bytes if it is longer.

    Raises:
        ParquetDamage: the file was rewritten since it was listed, or is damaged at this row.
        FileNotFoundError: the file no longer exists.
    """
    key = (os.getpid(), place.file, place.group, place.column)  # a forked process must not share its parent's files
    with _LOCK:
        rows = _OPEN.pop(key, None) or _GroupRows()
        _OPEN[key] = rows
        while len(_OPEN) > OPEN_GROUPS:
            _OPEN.popitem(last=False)
    return rows.read(place, max_bytes)


class _GroupRows:
    """One row group, read as a stream."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._values: Iterator[pa.Buffer | None] | None = None
        self._next = 0
        self._kept: OrderedDict[int, pa.Buffer | None] = OrderedDict()
        self._failed: tuple[int, Exception, float] | None = None  # from which row on, why, and until when

    def read(self, place: ParquetPlace, max_bytes: int) -> bytes:
        with self._lock:
            value = self._value(place)
        if value is None:
            return b""
        data: bytes = value.slice(0, min(value.size, max_bytes + 1)).to_pybytes()
        return data

    def _value(self, place: ParquetPlace) -> pa.Buffer | None:
        if place.row in self._kept:
            return self._kept[place.row]
        if self._failed is not None and place.row >= self._failed[0] and time.monotonic() < self._failed[2]:
            raise self._failed[1]
        try:
            return self._read_to(place)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as error:
            self._values = None
            if isinstance(error, TooSlow):  # else each further row would wait as long, one after the other
                self._failed = (self._next, error, time.monotonic() + PAUSE_SECONDS)
                raise
        try:  # one retry: a connection may have broken
            return self._read_to(place)
        except (pa.ArrowException, OSError) as error:
            self._values = None
            damage = ParquetDamage(f"row group {place.group}, from row {self._next} on: {error}")
            self._failed = (self._next, damage, math.inf)  # else every further row would re-read all rows before it
            raise damage from error

    def _read_to(self, place: ParquetPlace) -> pa.Buffer | None:
        if self._values is None or place.row < self._next:
            self._next = 0
            try:
                self._values = self._open(place)
            except ParquetDamage as error:  # concerns the whole file
                self._failed = (0, error, math.inf)
                raise
        for value in self._values:
            self._kept[self._next] = value
            while len(self._kept) > KEPT_ROWS:
                self._kept.popitem(last=False)
            self._next += 1
            if self._next > place.row:
                return value
        raise ParquetDamage(f"row group {place.group} has {self._next} rows; row {place.row} was asked for")

    def _open(self, place: ParquetPlace) -> Iterator[pa.Buffer | None]:
        file = open_parquet(place.file)
        changed = f"{place.file} was written anew since it was listed; another ingest.source.snapshot lists again"
        path = image_column(file, place.column)
        if place.group >= file.metadata.num_row_groups or _group(file, place.group, path).mark != place.mark:
            raise ParquetDamage(changed)
        # One row per batch: in a dictionary-encoded page, every value comes out at full size, however small the page.
        batches = file.iter_batches(batch_size=1, row_groups=[place.group], columns=[path], use_threads=False)
        return (_bytes_of(batch.column(0)) for batch in batches)


def _bytes_of(column: Any) -> pa.Buffer | None:
    value = column[0]
    if pa.types.is_struct(column.type):
        value = column.field("bytes")[0] if value.is_valid else pa.scalar(None, pa.binary())
    return value.as_buffer() if value.is_valid else None


# Reading ranges of a file, on a disk or in an object store.


def file_size(uri: str) -> int:
    """The file's size in bytes; raises FileNotFoundError, or OSError if it is not a regular file."""
    if storage.is_local(uri):
        with storage.open_regular(storage.local_path(uri)) as file:
            return os.fstat(file.fileno()).st_size
    fs, path = storage.resolve(uri)
    fs.invalidate_cache(path)
    return int(fs.info(path)["size"])


def read_range(uri: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop), or fewer at the end of the file; raises FileNotFoundError or OSError."""
    if storage.is_local(uri):
        with storage.open_regular(storage.local_path(uri)) as file:
            file.seek(start)
            return file.read(stop - start)
    fs, path = storage.resolve(uri)
    return bytes(fs.cat_file(path, start=start, end=stop))


class Window:
    """Reads small parts of a file at ascending offsets; for remote files more is fetched than requested.

    Fetches 8 MiB at a time if the parts lie close together, 64 KiB if there are large gaps between them.
    """

    def __init__(self, uri: str) -> None:
        """Raises FileNotFoundError, or OSError if it is not a regular file."""
        self.uri, self.size = uri, file_size(uri)
        self._local = storage.is_local(uri)
        self._start, self._data = 0, b""
        self._asked = 0

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`, or fewer at the end of the file."""
        stop = min(start + length, self.size)
        if stop <= start:
            return b""
        if start < self._start or stop > self._start + len(self._data):
            ahead = 4096 if self._local else _LARGE if start - self._asked < _NEAR else _SMALL
            self._data = read_range(self.uri, start, min(max(stop, start + ahead), self.size))
            self._start = start
        self._asked = start
        return self._data[start - self._start : stop - self._start]
