"""What an image file claims in its header that a decoder would take memory or hours for, before any decoder sees it.

Pillow looks at the size of most formats before it decodes, and at the size that counts for the picture only. It decodes
ICO while it opens it, makes one Python number of each of a TIFF's entries, takes as much memory as a tile or a frame of
an animation claims, and puts pieces of EXIF together one by one. Formats: TIFF 6.0 and BigTIFF, GIF89a, Microsoft's ICO
and BITMAPINFOHEADER, PNG (ISO 15948), JPEG (ITU-T T.81).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Final

MAX_NUMBERS: Final = 2**20
"""Numbers in the entries of a TIFF's page: offsets and sizes of its strips or tiles, palettes."""
MAX_ENTRIES: Final = 2**16 - 1
"""Entries of a TIFF's page; more can stand in a BigTIFF's alone, and do in no real one's."""
MAX_EXIF: Final = 4 * 2**20
"""Bytes of a JPEG's EXIF; one segment holds 64 KiB."""
FRAMES: Final = 16
"""Frames and pages that are looked through for one in which anything is to be seen."""

_TIFF: Final = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
_BYTES: Final = frozenset((1, 2, 7))  # BYTE, ASCII, UNDEFINED: kept as bytes
_TILE: Final = {322: 0, 323: 1}
_EXIF: Final = b"Exif\0\0"


def stated_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """Width and height of what a decoder would make room for beside the picture itself."""
    try:
        if data[:4] == b"\0\0\1\0":
            yield from _icons(data)
        elif data[:4] == b"GIF8":
            yield from islice(_frames(data), FRAMES)
        elif data[:4] in _TIFF:
            for entries in islice(_pages(data), FRAMES):
                tile = [0, 0]
                for tag, _, _, value in entries:
                    if tag in _TILE:
                        tile[_TILE[tag]] = value
                if all(tile):
                    yield tile[0], tile[1]
    except (struct.error, IndexError):  # the file ends: the decoder says so
        return


def excess(data: bytes) -> str | None:
    """What of a header is more than any camera or program writes; None where nothing is."""
    if data[:2] == b"\xff\xd8":
        size = _exif_bytes(data)
        return f"{size:,} bytes of EXIF; a segment holds 65,533" if size > MAX_EXIF else None
    if data[:4] not in _TIFF:
        return None
    try:
        for entries in islice(_pages(data), FRAMES):
            if len(entries) > MAX_ENTRIES:
                return f"a TIFF with a page of more than {MAX_ENTRIES:,} entries"
            numbers = sum(count for _, kind, count, _ in entries if kind not in _BYTES)
            if numbers > MAX_NUMBERS:
                return f"a TIFF whose header has {numbers:,} numbers"
    except (struct.error, IndexError):
        return None
    return None


def _icons(data: bytes) -> Iterator[tuple[int, int]]:
    (number,) = struct.unpack_from("<H", data, 4)
    for entry in range(number):
        (at,) = struct.unpack_from("<I", data, 6 + 16 * entry + 12)
        if data[at : at + 8] == b"\x89PNG\r\n\x1a\n":
            yield struct.unpack_from(">II", data, at + 16)
        else:  # a bitmap without a file header; its height counts the mask, too
            width, height = struct.unpack_from("<ii", data, at + 4)
            yield abs(width), abs(height) // 2


def _frames(data: bytes) -> Iterator[tuple[int, int]]:
    """Right and lower edges of a GIF's frames, which make its canvas larger."""
    at = 13 + _colours(data[10])
    while True:
        if data[at] == 0x2C:
            left, top, width, height = struct.unpack_from("<HHHH", data, at + 1)
            yield left + width, top + height
            at += 11 + _colours(data[at + 9])
        elif data[at] == 0x21:
            at += 2
        elif data[at] == 0x3B:
            return
        else:
            at += 1
            continue
        while data[at]:
            at += 1 + data[at]
        at += 1


def _colours(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _pages(data: bytes) -> Iterator[list[tuple[int, int, int, int]]]:
    """(tag, type, count, value) of the entries of each page; the value is one number where it stands in the entry."""
    order = _TIFF[data[:4]]
    big = data[2:4] in {b"+\0", b"\0+"}
    entry, counts, place, numbers = ("HHQ", "Q", "Q", 8) if big else ("HHI", "H", "I", 4)
    (at,) = struct.unpack_from(order + place, data, 8 if big else 4)
    seen: set[int] = set()
    while at and at not in seen:
        seen.add(at)
        (number,) = struct.unpack_from(order + counts, data, at)
        at += struct.calcsize("=" + counts)
        found, size = [], struct.calcsize("=" + entry) + numbers
        for _ in range(min(number, MAX_ENTRIES + 1, len(data) // size)):
            tag, kind, count = struct.unpack_from(order + entry, data, at)
            (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, at + size - numbers)
            found.append((tag, kind, count, value))
            at += size
        yield found
        (at,) = struct.unpack_from(order + place, data, at)


def _exif_bytes(data: bytes) -> int:
    at, size = 2, 0
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        if data[at + 1] == 0xFF:  # filling
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if data[at + 1] == 0xE1 and data[at + 4 : at + 10] == _EXIF:
            size += length
        at += 2 + max(length, 2)
    return size
