"""Reads the bytes of an image that lies inside a container file, for `fgvr.images.read`."""

from __future__ import annotations

from typing import Final

from fgvr import storage
from fgvr.images.parquet import ParquetDamage, read_range, read_row
from fgvr.images.places import ParquetPlace, TarPlace, Unlisted, parse
from fgvr.images.tar import BLOCK, is_at
from fgvr.schemas import Reason

LEAD: Final = 4096
"""Bytes to read before a tar member: they hold the headers with its name if its own header has no room for it."""


class InsideError(Exception):
    """An image inside a container file that cannot be read; has a `reason` and a message."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def read_inside(uri: str, max_bytes: int) -> bytes:
    """The bytes at a URI of `fgvr.images.places`, at most `max_bytes` + 1.

    Raises:
        InsideError: CORRUPT, NOT_ALLOWED, TOO_MANY_BYTES (nothing is read), or the reason why it could not be listed.
        FileNotFoundError, OSError: from the container file.
    """
    try:
        place = parse(uri)
    except ValueError as error:
        raise InsideError(Reason.NOT_FOUND, str(error)) from error
    if isinstance(place, Unlisted):
        raise InsideError(place.reason, place.detail)
    around = place.shard if isinstance(place, TarPlace) else place.file
    if not (storage.is_local(around) or storage.is_object_store(around)):
        raise InsideError(Reason.NOT_ALLOWED, "files with images inside are read from disks and object stores")
    match place:
        case TarPlace():
            return _member(place, max_bytes)
        case ParquetPlace():
            try:
                return read_row(place, max_bytes)
            except ParquetDamage as error:
                raise InsideError(Reason.CORRUPT, str(error)) from error


def _member(place: TarPlace, max_bytes: int) -> bytes:
    """Reads the member and the headers before it in one request; the headers must match those that were listed."""
    if place.size > max_bytes:
        raise InsideError(Reason.TOO_MANY_BYTES, f"{place.size:,} bytes, the limit is {max_bytes:,}")
    name = place.link or place.name  # in the header before the bytes
    first = max(place.offset - (BLOCK if name.isascii() and len(name) < 100 else LEAD), 0)
    data = read_range(place.shard, first, place.offset + place.size)

    def read(start: int, length: int) -> bytes:
        if start >= first:
            return data[start - first : start - first + length]
        return around.read(start, length)

    around = _Backwards(place.shard)
    if not is_at(read, name, place.offset, place.size):
        raise InsideError(
            Reason.CORRUPT,
            f"{place.shard} was written anew since it was listed; another ingest.source.snapshot lists again",
        )
    found = data[place.offset - first :]
    if len(found) < place.size:
        raise InsideError(Reason.CORRUPT, f"{place.shard} ends in the middle of {name}")
    return found


class _Backwards:
    """Reads small parts of a file at descending offsets; each request also fetches what lies before the part."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._start, self._data, self._more = 0, b"", 64 * 2**10

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`, or fewer at the end of the file."""
        stop = start + length
        if start < self._start or stop > self._start + len(self._data):
            self._start = max(0, min(start, stop - self._more))
            self._data = read_range(self._uri, self._start, stop)
            self._more *= 2
        return self._data[start - self._start : stop - self._start]
