"""The bytes of an image that lies inside a file, for `fgvr.images`."""

from __future__ import annotations

from fgvr import storage
from fgvr.archives.parquet import ParquetDamage, read_row
from fgvr.archives.places import ParquetPlace, TarPlace, Unlisted, parse
from fgvr.archives.ranges import read_range
from fgvr.archives.tar import BLOCK, Kind, parse_header
from fgvr.schemas import Reason


class InsideError(Exception):
    """An image inside a file that cannot be had: `reason`, and the message."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def read_inside(uri: str, max_bytes: int) -> bytes:
    """The bytes at a URI of `fgvr.archives.places`, at most `max_bytes` + 1.

    Raises:
        InsideError: CORRUPT, NOT_ALLOWED, TOO_MANY_BYTES (nothing is read), or the reason why it was never listed.
        FileNotFoundError, OSError: of the file around it.
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
    """One request: the member's bytes and the header before them, which must be the one that was listed."""
    if place.size > max_bytes:
        raise InsideError(Reason.TOO_MANY_BYTES, f"{place.size:,} bytes, the limit is {max_bytes:,}")
    data = read_range(place.shard, place.offset - BLOCK, place.offset + place.size)
    try:
        header = parse_header(data[:BLOCK])
        long = len(place.name.encode()) > 99  # then the whole name stands in another header
        same = header.size == place.size and header.kind is Kind.FILE and (long or header.name == place.name)
    except ValueError:
        same = False
    if not same:
        raise InsideError(
            Reason.CORRUPT,
            f"{place.shard} was written anew since it was listed; another ingest.source.snapshot lists again",
        )
    if len(data) < BLOCK + place.size:
        raise InsideError(Reason.CORRUPT, f"{place.shard} ends in the middle of {place.name}")
    return data[BLOCK:]
