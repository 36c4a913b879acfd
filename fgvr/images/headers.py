"""Checks of image headers for claims that would cost a decoder gigabytes or hours, made before any decoder runs.

Pillow checks the size of most formats before it decodes, but only the size of the picture itself. It decodes an ICO
while opening it, makes a Python number of each entry of a TIFF, allocates as much memory as a tile or an animation
frame claims, and joins pieces of EXIF one by one. Where a normal program writes a few items, an attacker may write
millions: JPEG scans, each of which is a pass over the whole picture, comments, chunks, fill bytes. Format
specifications: GIF89a, Microsoft's ICO and BITMAPINFOHEADER, PNG (ISO 15948), JPEG (ITU-T T.81), netpbm's. TIFF and
JPEG 2000 have modules of their own (`fgvr.images.tiff`, `fgvr.images.jpeg2000`).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Final

from fgvr.images.exif import MAX_EXIF
from fgvr.images.jpeg2000 import jpeg2000_excess, jpeg2000_sizes
from fgvr.images.tiff import TIFF, tiff_excess, tile_sizes

MAX_SCANS: Final = 100
"""Limit for the scans of a JPEG; programs write about ten."""
MAX_SEGMENTS: Final = 20_000
"""Limit for the segments of a JPEG; the largest profiles and previews have a thousand."""
MAX_FILL: Final = 2**16
"""Limit for the bytes between two segments of a JPEG, or in a netpbm header."""
MAX_COMMENTS: Final = 2**16
"""Limit for the pieces (of 255 bytes) of comments and extensions before a GIF's first frame."""
MAX_CHUNKS: Final = 100_000
"""Limit for the chunks of a PNG; one of 100 MB has 12,000 of libpng's."""
MAX_IN_PYTHON: Final = 16 * 2**20
"""Limit for the bytes of files that Pillow decodes in Python (4 MB a second): plain netpbm, run-length coded BMP."""
FRAMES: Final = 16
"""How many frames or pages are searched for one that is not fully transparent."""

JPEG2000: Final = (b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")
"""How JPEG 2000 begins, as a raw codestream and as a file."""

_EXIF: Final = b"Exif\0\0"
_MARKER: Final = re.compile(rb"\xff[^\0\xff\xd0-\xd7]")  # not a stuffed byte, fill byte or restart marker
_TOKEN: Final = rb"(?:\s|#[^\r\n]*[\r\n])+[^\s#]+"
_NETPBM: Final = re.compile(rb"P(?:[14](?:%s){2}|[2356fF](?:%s){3})" % (_TOKEN, _TOKEN))


def stated_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """Width and height of everything besides the picture itself for which a decoder would allocate memory."""
    try:
        if data[:4] == b"\0\0\1\0":
            yield from _icons(data)
        elif data[:4] == b"GIF8":
            yield from islice(_frames(data), FRAMES)
        elif data.startswith(JPEG2000):
            yield from jpeg2000_sizes(data)
        elif data[:4] in TIFF:
            yield from tile_sizes(data, FRAMES)
    except (struct.error, IndexError):  # the file is cut off: the decoder will report it
        return


def excess(data: bytes) -> str | None:
    """What in a header exceeds anything that a camera or program writes; None if nothing does."""
    look = next((look for starts, look in _LOOKS if data.startswith(starts)), None)
    return None if look is None else look(data)


def _bmp_excess(data: bytes) -> str | None:
    coded = data[30:34] in {b"\1\0\0\0", b"\2\0\0\0"}
    return _slow("run-length coded BMP", data, "a plain one") if coded else None


def _netpbm_excess(data: bytes) -> str | None:
    if len(data) > MAX_FILL and _NETPBM.match(data, 0, MAX_FILL) is None:
        return f"a netpbm header of more than {MAX_FILL:,} bytes"
    return _slow("plain netpbm", data, "P4, P5 or P6") if data[1:2] in b"123" else None


def _slow(kind: str, data: bytes, other: str) -> str | None:
    if len(data) <= MAX_IN_PYTHON:
        return None
    return f"a {kind} of {len(data):,} bytes, which takes long to decode; write it as {other}"


def _png_excess(data: bytes) -> str | None:
    at, chunks = 8, 0
    while at + 8 <= len(data):
        at, chunks = at + 12 + int.from_bytes(data[at : at + 4], "big"), chunks + 1
        if chunks > MAX_CHUNKS:
            return f"a PNG of more than {MAX_CHUNKS:,} chunks"
    return None


def _icons(data: bytes) -> Iterator[tuple[int, int]]:
    (number,) = struct.unpack_from("<H", data, 4)
    for entry in range(number):
        (at,) = struct.unpack_from("<I", data, 6 + 16 * entry + 12)
        if data[at : at + 8] == b"\x89PNG\r\n\x1a\n":
            yield struct.unpack_from(">II", data, at + 16)
        else:  # a bitmap without a file header; its height includes the mask
            width, height = struct.unpack_from("<ii", data, at + 4)
            yield abs(width), abs(height) // 2


def _frames(data: bytes) -> Iterator[tuple[int, int]]:
    """Right and lower edges of a GIF's frames, since frames can enlarge its canvas."""
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


def _jpeg_excess(data: bytes) -> str | None:
    exif = photoshop = scans = 0
    # Only a few images are scanned past their header: those followed by a video, and those with too many scans.
    in_header = data.count(b"\xff\xda") <= MAX_SCANS
    for number, (before, marker, start, length) in enumerate(_segments(data)):
        exif += length if marker == 0xE1 and data.startswith(_EXIF, start) else 0
        photoshop += length if marker == 0xED else 0
        said = {
            f"{before:,} bytes between two segments": before > MAX_FILL and not scans,
            f"{exif:,} bytes of EXIF; a segment holds 65,533": exif > MAX_EXIF,
            f"{photoshop:,} bytes of Photoshop's records; a segment holds 65,533": photoshop > MAX_EXIF,  # likewise
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
    """For each JPEG segment: number of stray bytes before it, marker, start of its content, length of its content.

    After the header of a scan, the bytes up to the next segment are image data and not counted as stray.
    """
    at = 2
    while found := _MARKER.search(data, at):
        before, start, marker = found.start() - at, found.end(), data[found.end() - 1]
        alone = marker in {0x01, 0xD8, 0xD9} or start + 2 > len(data)
        length = 0 if alone else max(struct.unpack_from(">H", data, start)[0], 2)
        yield before, marker, start + 2, length
        at = start + length


def _gif_excess(data: bytes) -> str | None:
    """Too many comment pieces: Pillow joins the comments of a GIF one by one, copying them all each time."""
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


_LOOKS: Final = (
    ((b"\xff\xd8",), _jpeg_excess),
    ((b"GIF8",), _gif_excess),
    (tuple(TIFF), partial(tiff_excess, pages=FRAMES)),
    ((b"\x89PNG\r\n\x1a\n",), _png_excess),
    (JPEG2000, jpeg2000_excess),
    ((b"BM",), _bmp_excess),
    ((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf", b"PF"), _netpbm_excess),
)
"""How files begin, and what looks at their headers."""
