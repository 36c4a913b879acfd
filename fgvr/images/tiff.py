"""The directories of TIFF and BigTIFF files: what a decoder would make of them, before it does.

Pillow makes a Python number of each value of a directory. What is cut off is read as far as it goes, as Pillow reads
it. Specifications: TIFF 6.0; BigTIFF.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

MAX_NUMBERS: Final = 2**20
"""Limit for the numbers in a TIFF page's entries: offsets and sizes of its strips or tiles, palettes."""
MAX_ENTRIES: Final = 2**16 - 1
"""Limit for the entries of a TIFF page; only a BigTIFF could hold more, and no real one does."""
TIFF: Final = {
    b"II*\0": (("<", False),),
    b"MM\0*": ((">", False),),
    b"II\0*": (("<", False),),  # wrong, as is the next, and read all the same
    b"MM*\0": ((">", False),),
    b"II+\0": (("<", True),),
    b"MM\0+": ((">", True), (">", False)),  # to Pillow this is no BigTIFF
}
"""How files begin → the byte orders and sizes (whether it is a BigTIFF) by which they may be read."""

_BYTES: Final = frozenset((1, 2, 7))  # BYTE, ASCII, UNDEFINED: kept as bytes
_LONG8: Final = frozenset((16, 17, 18))
_TILE: Final = {322: 0, 323: 1}
_DIRECTORIES: Final = frozenset((34665, 34853, 40965))
"""Tags whose value is the place of a further directory: EXIF, GPS, interoperability. Pillow reads these, too."""

Entry = tuple[int, int, int, int]
"""Tag, type, count and value; the value is a number if it is stored in the entry itself."""


def tile_sizes(data: bytes, pages: int) -> Iterator[tuple[int, int]]:
    """Width and height of the tiles of each of the first pages that has any."""
    for file in _readings(data):
        for entries in islice(file.pages(), pages):
            tile = [0, 0]
            for tag, _, _, value in entries:
                if tag in _TILE:
                    tile[_TILE[tag]] = value
            if all(tile):
                yield tile[0], tile[1]


def tiff_excess(data: bytes, pages: int) -> str | None:
    """What in the first pages' directories exceeds anything that a program writes; None if nothing does."""
    for file in _readings(data):
        for page in islice(file.pages(), pages):
            others = {tag: value for tag, _, _, value in reversed(page) if tag in _DIRECTORIES}
            entries = page + [entry for at in others.values() for entry in file.directory(at)[0]]
            if len(entries) > MAX_ENTRIES:
                return f"a TIFF with a page of more than {MAX_ENTRIES:,} entries"
            numbers = sum(count for _, kind, count, _ in entries if kind not in _BYTES)
            if numbers > MAX_NUMBERS:
                return f"a TIFF whose header has {numbers:,} numbers"
    return None


def _readings(data: bytes) -> Iterator[_File]:
    for order, is_big in TIFF[data[:4]]:
        yield _File(data, order, is_big)


@dataclass(frozen=True)
class _File:
    """A file, read in one way; `order` is struct's sign of its byte order."""

    data: bytes
    order: str
    is_big: bool

    def pages(self) -> Iterator[list[Entry]]:
        """The entries of each page."""
        at = self._place(8 if self.is_big else 4)
        seen: set[int] = set()
        while at and at not in seen:
            seen.add(at)
            found, end = self.directory(at)
            yield found
            at = self._place(end)

    def directory(self, at: int) -> tuple[list[Entry], int]:
        """The entries of a directory as far as the file goes, and where they end."""
        entry, counts, numbers = ("HHQ", "Q", 8) if self.is_big else ("HHI", "H", 4)
        size = struct.calcsize("=" + entry) + numbers
        first = at + struct.calcsize("=" + counts)
        (number,) = struct.unpack_from(self.order + counts, self.data, at) if first <= len(self.data) else (0,)
        there = max(len(self.data) - first, 0) // size
        found = []
        for place in range(first, first + size * min(number, there, MAX_ENTRIES + 1), size):
            tag, kind, count = struct.unpack_from(self.order + entry, self.data, place)
            form = "H" if kind == 3 else "Q" if self.is_big and kind in _LONG8 else "I"
            (value,) = struct.unpack_from(self.order + form, self.data, place + size - numbers)
            found.append((tag, kind, count, value))
        return found, first + size * number

    def _place(self, at: int) -> int:
        """The offset that is stored at an offset; 0 if the file ends before it."""
        form = "Q" if self.is_big else "I"
        stop = at + struct.calcsize("=" + form)
        return int(struct.unpack_from(self.order + form, self.data, at)[0]) if stop <= len(self.data) else 0
