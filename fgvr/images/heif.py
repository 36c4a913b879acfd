"""What decoding an AVIF or HEIF file would cost, read from its boxes and from the coded pictures, before any decoder.

Such a file states its size in an `ispe` box, and so does each of its pictures: the tiles of a grid, alpha, thumbnails.
The coded pictures state theirs themselves, and decoders allocate these: a photo of 64 × 64 may hold one of 16,384 ×
16,384 in a few kilobytes, or a grid of thousands of tiles that share the same bytes. Boxes that contradict each other
are all believed. Formats: ISO/IEC 14496-12 (boxes, tracks), ISO/IEC 23008-12 (HEIF), AVIF 1.1.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from fgvr.images.coded_sizes import CodedError, Size, av1_sizes, hevc_config_sizes, hevc_sizes
from fgvr.images.exif import MAX_EXIF
from fgvr.images.formats import heif_brand

MAX_STEPS: Final = 100_000
"""Limit for boxes, entries of boxes, and units of coded pictures, together; a photo of 200 megapixels in tiles of 512
has about ten thousand."""
MAX_TILES: Final = 10_000
"""Limit for the coded pictures of which one picture is made."""
FRAMES: Final = 16
"""How many frames of a track are looked at: no more of them are decoded (`fgvr.images.headers.FRAMES`)."""

_AV1: Final = b"av01"
_HEVC: Final = (b"hvc1", b"hev1")
_OF_TRACKS: Final = {b"tkhd", b"stsd", b"stsz", b"stsc", b"stco", b"co64"}
_FOLDERS: Final = {b"iprp", b"moov", b"trak", b"mdia", b"minf", b"stbl"}


@dataclass(frozen=True)
class Cost:
    """What a decoder would have to do.

    Attributes:
        sizes: of all pictures and canvases, stated or coded.
        pixels: of all coded pictures that the file's picture is made of, its alpha included.
    """

    sizes: tuple[Size, ...] = ()
    pixels: int = 0


@dataclass
class _Item:
    """A picture, or what else is stored as an item."""

    kind: bytes = b""
    data: list[memoryview] = field(default_factory=list)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    made_of: list[int] = field(default_factory=list)
    """Items of which it is derived, in order, and as often as each occurs."""
    auxiliaries: list[int] = field(default_factory=list)


def cost_of(data: bytes) -> Cost | None:
    """The cost of an AVIF or HEIF file; None for any other file.

    Raises CodedError if it is damaged or cannot be told; the message says why.
    """
    if heif_brand(data) is None:  # Pillow's decoders of these formats look at the brand, too
        return None
    try:
        return _File(data).cost()
    except (struct.error, IndexError) as error:
        raise CodedError(f"damaged boxes ({error})") from error
    except RecursionError:
        raise CodedError("boxes inside boxes, or pictures made of each other, without end") from None


class _File:
    """The boxes of a file, and the items that they describe."""

    def __init__(self, data: bytes) -> None:
        self._data, self._steps = memoryview(data), 0
        self.items: defaultdict[int, _Item] = defaultdict(_Item)
        self._primary: set[int] = set()
        self._exif: set[int] = set()
        self._works: dict[int, tuple[int, int]] = {}
        self._properties: list[tuple[bytes, bytes]] = []
        self._tracks: list[dict[bytes, bytes]] = []
        found = defaultdict[bytes, list[bytes]](list)
        for kind, body in self._walk(0, len(data)):
            if kind == b"trak":
                self._tracks.append({})
            elif self._tracks and kind in _OF_TRACKS:
                self._tracks[-1][kind] = body
            else:
                found[kind].append(body)
        self._inside = b"".join(found[b"idat"])
        for body in found[b"ipco"]:
            self._properties += self._children(body)
        for kind, read in _OF_ITEMS.items():
            for body in found[kind]:
                read(self, body)

    def cost(self) -> Cost:
        """See `cost_of`."""
        exif = sum(len(data) for number in self._exif for data in self.items[number].data)
        if exif > MAX_EXIF:
            raise CodedError(f"{exif:,} bytes of EXIF")
        sizes, pixels = list[Size](), 0
        for number in self._primary:
            pixels += self._work(number)[0]
        for item in list(self.items.values()):
            sizes += self._stated(item)
            sizes += self._coded(item)
        for track in self._tracks:
            sizes += self._frames(track)
        return Cost(tuple(sizes), pixels)

    # Boxes

    def _walk(self, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
        """Kind and content of all boxes; those that hold others are followed by these."""
        for kind, first, last in self._at(self._data, start, end):
            if kind in _FOLDERS:
                yield kind, b""
                yield from self._walk(first, last)
            elif kind == b"meta":
                yield from self._walk(first + 4, last)
            elif kind == b"iinf":
                yield from self._walk(first + (8 if self._data[first] else 6), last)
            elif kind not in {b"mdat", b"free", b"skip", b"uuid"}:
                yield kind, bytes(self._data[first:last])

    def _children(self, body: bytes) -> list[tuple[bytes, bytes]]:
        return [(kind, body[first:last]) for kind, first, last in self._at(memoryview(body), 0, len(body))]

    def _at(self, data: memoryview, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
        """Kind, begin and end of the content of each box."""
        while at + 8 <= end:
            self._spend()
            size, kind, first = int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8]), at + 8
            if size == 1:
                size, first = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
            stop = end if size == 0 else min(at + max(size, first - at), end)
            yield kind, first, stop
            at = stop

    def _spend(self, steps: int = 1) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise CodedError(f"more than {MAX_STEPS:,} boxes, entries of boxes, and units of pictures")

    # Items

    def _choose(self, body: bytes) -> None:
        """pitm: which item the file's picture is."""
        self._primary.add(int.from_bytes(body[4:8] if body[0] else body[4:6], "big"))

    def _describe(self, body: bytes) -> None:
        """infe: what kind of item it is."""
        if body[0] < 2:
            return  # without a kind: nothing that could be a picture
        number, kind = struct.unpack_from(">IxxI" if body[0] > 2 else ">HxxI", body, 4)
        self.items[number].kind = kind.to_bytes(4, "big")
        if self.items[number].kind == b"Exif":
            self._exif.add(number)
        if self.items[number].kind == b"mime" and _compressed(body):
            raise CodedError("metadata that are compressed")

    def _locate(self, body: bytes) -> None:
        """iloc: where the items' bytes are."""
        version, sizes = body[0], struct.unpack_from(">H", body, 4)[0]
        widths = [sizes >> shift & 15 for shift in (12, 8, 4)] + [sizes & 15 if version else 0]
        at = 6

        def number(width: int) -> int:
            nonlocal at
            if at + width > len(body):
                raise CodedError("an iloc that is cut off")
            at += width
            return int.from_bytes(body[at - width : at], "big")

        joined = 0
        for _ in range(number(4 if version > 1 else 2)):
            self._spend()
            item = self.items[number(4 if version > 1 else 2)]
            method = number(2) & 15 if version else 0
            number(2)
            base, pieces = number(widths[2]), list[memoryview]()
            source = memoryview(self._inside) if method == 1 else self._data
            for _ in range(number(2)):
                self._spend()
                number(widths[3])
                start, length = base + number(widths[0]), number(widths[1])
                pieces.append(source[start : start + length if length else len(source)])
            if method > 1 and pieces:
                raise CodedError("items inside other items")
            joined += sum(len(piece) for piece in pieces) if len(pieces) > 1 else 0
            if joined > 4 * len(self._data):
                raise CodedError("items that are made of the same bytes again and again")
            item.data += pieces if len(pieces) < 2 else [memoryview(b"".join(pieces))]

    def _associate(self, body: bytes) -> None:
        """ipma: which properties an item has."""
        version, flags, at = body[0], body[3], 8
        for _ in range(struct.unpack_from(">I", body, 4)[0]):
            self._spend()
            (number,) = struct.unpack_from(">I" if version else ">H", body, at)
            at += 4 if version else 2
            count, at = body[at], at + 1
            self._spend(count)
            for _ in range(count):
                index = struct.unpack_from(">H", body, at)[0] & 0x7FFF if flags & 1 else body[at] & 0x7F
                at += 2 if flags & 1 else 1
                if 0 < index <= len(self._properties):
                    self.items[number].properties.append(self._properties[index - 1])

    def _refer(self, body: bytes) -> None:
        """iref: of which items another is made, and what belongs to it."""
        wide = 4 if body[0] else 2
        for kind, content in self._children(body[4:]):
            numbers = [int.from_bytes(content[:wide], "big")]
            rest = content[wide + 2 :]
            self._spend(len(rest) // wide)
            numbers += [int.from_bytes(rest[at : at + wide], "big") for at in range(0, len(rest), wide)]
            if kind == b"dimg":
                self.items[numbers[0]].made_of += numbers[1:]
            elif kind == b"auxl":
                for number in numbers[1:]:
                    self.items[number].auxiliaries.append(numbers[0])

    def _work(self, number: int) -> tuple[int, int]:
        """Pixels and number of the coded pictures that are decoded for an item."""
        if number not in self._works:
            item = self.items[number]
            if item.made_of:
                parts = [self._work(part) for part in item.made_of]
            elif self._is_read(item):
                sizes = list(self._coded(item))
                if not sizes:
                    raise CodedError("a coded picture that does not say its size")
                parts = [(max(width * height for width, height in sizes), 1)]
            else:
                raise CodedError(f"a picture of the kind {item.kind.decode('latin-1')!r}, which is not read")
            parts += [self._work(part) for part in item.auxiliaries if self._is_read(self.items[part])]
            pixels, tiles = sum(part[0] for part in parts), sum(part[1] for part in parts)
            if tiles > MAX_TILES:
                raise CodedError(f"a picture that is made of more than {MAX_TILES:,} others")
            self._works[number] = pixels, tiles
        return self._works[number]

    @staticmethod
    def _is_read(item: _Item) -> bool:
        """Whether an item is a picture of a kind that is read, or made of such."""
        return bool(item.made_of) or item.kind == _AV1 or item.kind in _HEVC

    def _stated(self, item: _Item) -> Iterator[Size]:
        """Sizes that boxes state: of the item, and of the canvas of a grid or overlay."""
        for kind, body in item.properties:
            if kind == b"ispe":
                yield struct.unpack_from(">II", body, 4)
        for data in item.data if item.kind in {b"grid", b"iovl"} else ():
            at = 4 if item.kind == b"grid" else 2 + 8
            yield struct.unpack_from(">II" if data[1] & 1 else ">HH", data, at)

    def _coded(self, item: _Item) -> Iterator[Size]:
        """Sizes in the configuration and in the data of a coded item."""
        length_bytes = 4
        for kind, body in item.properties:
            if item.kind == _AV1 and kind == b"av1C":
                yield from av1_sizes(body[4:], self._spend)
            elif item.kind in _HEVC and kind == b"hvcC":
                sizes, length_bytes = hevc_config_sizes(body, self._spend)
                yield from sizes
        for data in item.data:
            if item.kind == _AV1:
                yield from av1_sizes(data, self._spend)
            elif item.kind in _HEVC:
                yield from hevc_sizes(data, length_bytes, self._spend)

    # Tracks, of animations

    def _frames(self, track: dict[bytes, bytes]) -> Iterator[Size]:
        """Sizes of a track, of its configurations and of its first frames."""
        if head := track.get(b"tkhd"):
            width, height = struct.unpack(">II", head[-8:])
            yield width >> 16, height >> 16
        entries = track.get(b"stsd", b"")[8:]
        length_bytes = 4
        kinds = set()
        for kind, body in self._children(entries):
            kinds.add(kind)
            if kind == _AV1 or kind in _HEVC:
                yield struct.unpack_from(">HH", body, 24)
            for config, content in self._children(body[78:]):
                if config == b"av1C":
                    yield from av1_sizes(content[4:], self._spend)
                elif config == b"hvcC":
                    sizes, length_bytes = hevc_config_sizes(content, self._spend)
                    yield from sizes
        for start, length in self._samples(track):
            data = self._data[start : start + length]
            if _AV1 in kinds:
                yield from av1_sizes(data, self._spend)
            elif kinds & set(_HEVC):
                yield from hevc_sizes(data, length_bytes, self._spend)

    def _samples(self, track: dict[bytes, bytes]) -> Iterator[tuple[int, int]]:
        """Begin and length of the first frames' data."""
        if not {b"stsz", b"stsc"} <= set(track) or not {b"stco", b"co64"} & set(track):
            return
        same, count = struct.unpack_from(">II", track[b"stsz"], 4)
        sizes = [same or struct.unpack_from(">I", track[b"stsz"], 12 + 4 * n)[0] for n in range(min(count, FRAMES))]
        wide, places = (8, track[b"co64"]) if b"co64" in track else (4, track[b"stco"])
        (runs,) = struct.unpack_from(">I", track[b"stsc"], 4)
        run, each = 0, 1
        for chunk in range(struct.unpack_from(">I", places, 4)[0]):
            self._spend()
            if run < runs and struct.unpack_from(">I", track[b"stsc"], 8 + 12 * run)[0] == chunk + 1:
                (each,) = struct.unpack_from(">I", track[b"stsc"], 12 + 12 * run)
                run += 1
            at = int.from_bytes(places[8 + wide * chunk : 8 + wide * (chunk + 1)], "big")
            for _ in range(each):
                if not sizes:
                    return
                yield at, sizes[0]
                at += sizes.pop(0)


_OF_ITEMS: Final = {
    b"pitm": _File._choose,
    b"infe": _File._describe,
    b"iloc": _File._locate,
    b"ipma": _File._associate,
    b"iref": _File._refer,
}
"""What reads the boxes about items."""


def _compressed(body: bytes) -> bool:
    """Whether an infe of kind mime names a compression behind its name and its content type."""
    texts = body[4 + (4 if body[0] > 2 else 2) + 2 + 4 :].split(b"\0")
    return len(texts) > 2 and bool(texts[2])
