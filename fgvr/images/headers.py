"""What an image file claims in its header that a decoder would take memory or hours for, before any decoder sees it.

Pillow looks at the size of most formats before it decodes, and at the size that counts for the picture only. It decodes
ICO while it opens it, makes one Python number of each of a TIFF's entries, takes as much memory as a tile or a frame of
an animation claims, and puts pieces of EXIF together one by one. What one program writes a few of, a stranger may write
millions of: scans of a JPEG, each of which is a pass over the whole picture, comments, fill bytes. Formats: TIFF 6.0
and BigTIFF, GIF89a, Microsoft's ICO and BITMAPINFOHEADER, PNG (ISO 15948), JPEG (ITU-T T.81), netpbm's.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Final

MAX_NUMBERS: Final = 2**20
"""Numbers in the entries of a TIFF's page: offsets and sizes of its strips or tiles, palettes."""
MAX_ENTRIES: Final = 2**16 - 1
"""Entries of a TIFF's page; more can stand in a BigTIFF's alone, and do in no real one's."""
MAX_EXIF: Final = 4 * 2**20
"""Bytes of a JPEG's EXIF; one segment holds 64 KiB. Of Photoshop's records likewise."""
MAX_SCANS: Final = 100
"""Scans of a JPEG; programs write ten or so."""
MAX_SEGMENTS: Final = 20_000
"""Of a JPEG; the largest profiles and previews have a thousand."""
MAX_FILL: Final = 2**16
"""Bytes between two segments of a JPEG, or of a netpbm header."""
MAX_COMMENTS: Final = 2**16
"""Pieces (of 255 bytes) of comments and extensions before a GIF's first frame."""
FRAMES: Final = 16
"""Frames and pages that are looked through for one in which anything is to be seen."""

_TIFF: Final = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
_BYTES: Final = frozenset((1, 2, 7))  # BYTE, ASCII, UNDEFINED: kept as bytes
_TILE: Final = {322: 0, 323: 1}
_EXIF: Final = b"Exif\0\0"
_MARKER: Final = re.compile(rb"\xff[^\0\xff\xd0-\xd7]")  # no stuffed byte, no fill, no restart
_TOKEN: Final = rb"(?:\s|#[^\r\n]*[\r\n])+[^\s#]+"
_NETPBM: Final = re.compile(rb"P(?:[14](?:%s){2}|[2356fF](?:%s){3})" % (_TOKEN, _TOKEN))


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
        return _jpeg_excess(data)
    if data[:4] == b"GIF8":
        return _gif_excess(data)
    if data[:4] in _TIFF:
        return _tiff_excess(data)
    is_netpbm = data[:1] == b"P" and data[1:2] in b"123456fF"
    if is_netpbm and len(data) > MAX_FILL and _NETPBM.match(data, 0, MAX_FILL) is None:
        return f"a netpbm header of more than {MAX_FILL:,} bytes"
    return None


def _tiff_excess(data: bytes) -> str | None:
    with suppress(struct.error, IndexError):  # the file ends: the decoder says so
        for entries in islice(_pages(data), FRAMES):
            if len(entries) > MAX_ENTRIES:
                return f"a TIFF with a page of more than {MAX_ENTRIES:,} entries"
            numbers = sum(count for _, kind, count, _ in entries if kind not in _BYTES)
            if numbers > MAX_NUMBERS:
                return f"a TIFF whose header has {numbers:,} numbers"
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


def _jpeg_excess(data: bytes) -> str | None:
    exif = photoshop = scans = 0
    # Few pictures are looked at behind their header: those with a video behind them, and those with too many scans.
    in_header = data.count(b"\xff\xda") <= MAX_SCANS
    for number, (before, marker, start, length) in enumerate(_segments(data)):
        exif += length if marker == 0xE1 and data.startswith(_EXIF, start) else 0
        photoshop += length if marker == 0xED else 0
        said = {
            f"{before:,} bytes between two segments": before > MAX_FILL and not scans,
            f"{exif:,} bytes of EXIF; a segment holds 65,533": exif > MAX_EXIF,
            f"{photoshop:,} bytes of Photoshop's records; a segment holds 65,533": photoshop > MAX_EXIF,
            f"a JPEG of more than {MAX_SCANS} scans": scans >= MAX_SCANS and marker == 0xDA,
            f"a JPEG of more than {MAX_SEGMENTS:,} segments": number >= MAX_SEGMENTS,
        }
        if any(said.values()):
            return next(words for words, is_so in said.items() if is_so)
        scans += marker == 0xDA
        if scans and (in_header or marker == 0xD9):
            return None
    return None


def _segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Of each segment of a JPEG: bytes before it that belong to none, its marker, where its content begins, its length.

    Behind a scan's header, the bytes before the next one are the picture's own.
    """
    at = 2
    while found := _MARKER.search(data, at):
        before, start, marker = found.start() - at, found.end(), data[found.end() - 1]
        alone = marker in {0x01, 0xD8, 0xD9} or start + 2 > len(data)
        length = 0 if alone else max(struct.unpack_from(">H", data, start)[0], 2)
        yield before, marker, start + 2, length
        at = start + length


def _gif_excess(data: bytes) -> str | None:
    """Pillow joins the comments of a GIF one by one, each time anew."""
    with suppress(IndexError):  # as above
        at, pieces = 13 + _colours(data[10]), 0
        while data[at] == 0x21:
            at += 2
            while data[at]:
                at, pieces = at + 1 + data[at], pieces + 1
            at, pieces = at + 1, pieces + 1
            if pieces > MAX_COMMENTS:
                return "comments without end before the first frame"
    return None
