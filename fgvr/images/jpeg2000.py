"""What a JPEG 2000 picture would cost before a single pixel is decoded, read from its codestream's header.

OpenJPEG allocates about 550 bytes for each precinct and each code block, and 10 kB for each tile, whether the file
holds data for them or not: with precincts of one pixel, a file of 146 bytes costs a gigabyte. Specification: ITU-T
T.800, annex A (markers) and annex B (tiles, resolutions, precincts, code blocks).

Markers are searched for everywhere, in boxes, in the headers of tiles and between markers that nobody knows, since a
decoder may find its way to any of them; all that are found are believed. Random bytes have the length and the values of
such a marker segment once in 10¹³ bytes.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

MAX_PIECES: Final = 2**18
"""Limit for tiles, precincts and code blocks in a small picture: 150 MB. A larger one may have one more for each so
many samples:"""
SAMPLES_PER_PIECE: Final = 128
"""Then they cost as much memory as the samples themselves. Programs write code blocks of 1,024 or 4,096 samples."""
PIECES_PER_TILE: Final = 16
"""How many precincts cost as much as a tile; each of its components costs two more."""
MAX_PACKETS: Final = 2**22
"""Limit for packets, one per layer and precinct, likewise: half a second."""
SAMPLES_PER_PACKET: Final = 16
"""As above. Programs write up to 25 layers in precincts of 128 × 128 or more: 650 samples per packet."""
MAX_TILES: Final = 2**16 - 1
"""Limit of the specification."""
MAX_COMPONENTS: Final = 4
"""Limit for components; Pillow reads no picture of more."""
MAX_MARKERS: Final = 2**16
"""Limit for the places that look like a marker of one kind; a file of 64 MB has about a thousand by chance."""
MAX_WAYS: Final = 16
"""Limit for different sizes times different ways of coding in one file; most have one."""

_SIZ: Final = re.compile(rb"\xff\x51(?=(..)..(.{32})(..))", re.DOTALL)
_CODED: Final = rb"(?P<levels>[\0-\x20])(?P<wide>[\0-\x08])(?P<high>[\0-\x08]).[\0\1]"
_COD: Final = re.compile(
    rb"\xff\x52(?=\0(?P<length>[\x0c-\x2d])(?P<flags>[\0-\x07]).(?P<layers>..)." + _CODED + rb")", re.DOTALL
)
_COC: Final = re.compile(rb"\xff\x53(?=\0(?P<length>[\x09-\x2a]).(?P<flags>.)" + _CODED + rb")", re.DOTALL)
_WHOLE: Final = 15
"""Exponent of the precincts' sides where none are stated."""

_SMALLEST: Final = ((0, 0),)
_DETAIL: Final = ((1, 0), (0, 1), (1, 1))
"""Bands of the smallest resolution, and of each other one: whether they hold the high frequencies across, and down."""

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Style:
    """How samples are coded.

    Attributes:
        block: exponents of a code block's width and height.
        precincts: the same of the precincts, one pair for each resolution, from the smallest.
    """

    block: tuple[int, int]
    precincts: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Picture:
    """The reference grid of a codestream: sides are (begin, end, begin of the first tile, side of a tile)."""

    across: tuple[int, int, int, int]
    down: tuple[int, int, int, int]
    components: tuple[tuple[int, int], ...]
    """Distances of each component's samples on the grid."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.across[1] - self.across[0], self.down[1] - self.down[0]

    @property
    def samples(self) -> int:
        """Number of samples of all components."""
        width, height = self.size
        return sum(-(-width // dx) * -(-height // dy) for dx, dy in self.components)

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        across, down = (-(-(end - first) // side) for _, end, first, side in (self.across, self.down))
        return across * down

    def precincts_and_blocks(self, style: Style) -> tuple[int, int]:
        """Numbers of precincts, and of precincts and code blocks in all bands, if everything is coded in this style."""
        precincts = pieces = 0
        for (dx, dy), times in Counter(self.components).items():
            columns, rows = _intervals(*self.across, dx), _intervals(*self.down, dy)
            for resolution, sides in enumerate(style.precincts):
                left = len(style.precincts) - 1 - resolution  # how often what is left was halved
                here = _cells(columns, left, 0, sides[0]) * _cells(rows, left, 0, sides[1])
                precincts += times * here
                halved = min(resolution, 1)
                bands, level = (_DETAIL if halved else _SMALLEST), left + halved
                wide, high = (min(block, side - halved) for block, side in zip(style.block, sides, strict=True))
                blocks = (_cells(columns, level, x, wide) * _cells(rows, level, y, high) for x, y in bands)
                pieces += times * (len(bands) * here + sum(blocks))
        return precincts, pieces


def jpeg2000_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """Width and height in all headers of codestreams; a JP2 file's box may state others, but these are decoded."""
    for picture in _pictures(data):
        yield picture.size


def jpeg2000_excess(data: bytes) -> str | None:
    """What in the codestream's header would cost more than any picture of its size needs; None if nothing does."""
    if any(data.count(marker) > MAX_MARKERS for marker in (b"\xff\x51", b"\xff\x52", b"\xff\x53")):
        return f"a JPEG 2000 file of more than {MAX_MARKERS:,} markers that state how it is coded"
    pictures, styles, layers = _few(_pictures(data)), set[Style](), 1
    for style, stated in _styles(data):
        if len(styles) <= MAX_WAYS:
            styles.add(style)
        layers = max(layers, stated)
    if len(pictures) > MAX_WAYS or len(pictures) * len(styles) > MAX_WAYS:
        return f"a JPEG 2000 file of {len(pictures):,} sizes and {len(styles):,} ways of coding"
    said = (_excess(picture, style, layers) for picture in pictures for style in styles)
    return next((words for words in said if words is not None), None)


def _few(pictures: Iterator[Picture]) -> set[Picture]:
    """The different ones, no more than it takes to see that there are too many: each may be large."""
    found = set[Picture]()
    for picture in pictures:
        found.add(picture)
        if len(found) > MAX_WAYS:
            break
    return found


def _excess(picture: Picture, style: Style, layers: int) -> str | None:
    tiles, components = picture.tiles, len(picture.components)
    most = MAX_PIECES + picture.samples // SAMPLES_PER_PIECE
    of_tiles = tiles * (PIECES_PER_TILE + 2 * components)
    if tiles > MAX_TILES or components > MAX_COMPONENTS or of_tiles > most:
        return f"a JPEG 2000 picture of {components:,} components in {tiles:,} tiles"
    precincts, pieces = picture.precincts_and_blocks(style)
    if of_tiles + pieces > most:
        return f"a JPEG 2000 picture in {tiles:,} tiles and {pieces:,} precincts and code blocks"
    if precincts * layers > MAX_PACKETS + picture.samples // SAMPLES_PER_PACKET:
        return f"a JPEG 2000 picture of {layers:,} layers in {precincts:,} precincts"
    return None


def _pictures(data: bytes) -> Iterator[Picture]:
    """The reference grids of all codestreams."""
    for found in _SIZ.finditer(data):
        length, count = (int.from_bytes(number, "big") for number in found.group(1, 3))
        x1, y1, x0, y0, width, height, first_x, first_y = struct.unpack(">8I", found[2])
        start = found.end() + 38
        if length != 38 + 3 * count or start + 3 * count > len(data):
            continue
        # One more than are allowed is enough to refuse them: components of many headers may lie over each other.
        components = data[start : start + 3 * min(count, MAX_COMPONENTS + 1)]
        distances = tuple(zip(components[1::3], components[2::3], strict=True))
        if distances and x0 < x1 and y0 < y1 and width and height and all(dx and dy for dx, dy in distances):
            yield Picture((x0, x1, first_x, width), (y0, y1, first_y, height), distances)


def _styles(data: bytes) -> Iterator[tuple[Style, int]]:
    """How tiles and components are coded, and in how many layers: markers COD, and COC, which states no layers."""
    for marker, fixed in ((_COD, 12), (_COC, 9)):
        for found in marker.finditer(data):
            length, flags, levels, wide, high = (
                found[name][0] for name in ("length", "flags", "levels", "wide", "high")
            )
            start, stated = found.end() + fixed, levels + 1 if flags & 1 else 0
            if length != fixed + stated or wide + high > 8:
                continue
            sides = data[start : start + stated] if stated else bytes([_WHOLE << 4 | _WHOLE]) * (levels + 1)
            precincts = tuple((side & 15, side >> 4) for side in sides)
            if len(precincts) == levels + 1 and all(map(all, precincts[1:])):  # only the smallest may have sides of 1
                layers = int.from_bytes(found["layers"], "big") if marker is _COD else 1
                yield Style((wide + 2, high + 2), precincts), layers


def _intervals(begin: int, end: int, first: int, side: int, distance: int) -> tuple[Numbers, Numbers]:
    """Begins and ends of the tiles' samples of one component, in one direction."""
    edges = first + side * np.arange(-(-(end - first) // side) + 1, dtype=np.int64)
    edges = -(-np.clip(edges, begin, end) // distance)
    return edges[:-1], edges[1:]


def _cells(tiles: tuple[Numbers, Numbers], level: int, high: int, exponent: int) -> int:
    """How many cells of 2^`exponent` samples the tiles touch in one direction, in the band of a level (B-15).

    `high`: 1 for a band of high frequencies in this direction.
    """
    start, stop = (-(-(edges - (high << level >> 1)) >> level) for edges in tiles)
    touched = -(-stop >> exponent) - (start >> exponent)
    return int(touched[stop > start].sum())
