"""AVIF and HEIF files that lie about what decoding them costs: refused before any decoder is asked."""

import base64
import io
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from fgvr.config.data import ImageLimits
from fgvr.images.coded_sizes import CodedError, av1_sizes, hevc_config_sizes
from fgvr.images.heif import Cost, cost_of
from fgvr.images.read import ImageError, decode_image
from fgvr.schemas import Reason

LIMITS = ImageLimits(max_pixels=100_000)


@pytest.fixture
def no_decoder(monkeypatch):
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a decoder was asked")

    monkeypatch.setattr(Image, "open", opened)


def avif(width: int, height: int, mode: str = "RGB", **options: object) -> bytes:
    """What Pillow writes."""
    sink = io.BytesIO()
    Image.new(mode, (width, height), None).save(sink, "AVIF", speed=10, **options)
    return sink.getvalue()


def stated(data: bytes, width: int, height: int) -> bytes:
    """The same file, with another size in its first `ispe`."""
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


# A writer of such files, independent of the reader.


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + kind + body


def full(kind: bytes, version: int, *content: bytes, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *content)


def ispe(width: int, height: int) -> bytes:
    return full(b"ispe", 0, struct.pack(">II", width, height))


@dataclass
class Item:
    """An item of a hand-made file; numbers count from 1, by place in the file."""

    kind: bytes
    data: bytes = b""
    properties: Sequence[bytes] = ()
    dimg: Sequence[int] = ()
    auxl: Sequence[int] = ()
    text: bytes = b"\0"


def heif(*items: Item, brand: bytes = b"avif", primary: int = 1, extra: bytes = b"") -> bytes:
    """A file of items whose bytes lie in idat; equal ones once."""
    idat, places, properties, associations, references = b"", b"", [], b"", []
    for number, item in enumerate(items, 1):
        at = idat.find(item.data)
        if at < 0:
            at, idat = len(idat), idat + item.data
        places += struct.pack(">HHHHII", number, 1, 0, 1, at, len(item.data))
        for each in item.properties:
            if each not in properties:
                properties.append(each)
        which = bytes(0x80 | properties.index(each) + 1 for each in item.properties)
        associations += struct.pack(">HB", number, len(which)) + which
        for kind, others in ((b"dimg", item.dimg), (b"auxl", item.auxl)):
            if others:
                references.append(box(kind, struct.pack(f">HH{len(others)}H", number, len(others), *others)))
    infe = [full(b"infe", 2, struct.pack(">HH", n, 0), item.kind, item.text) for n, item in enumerate(items, 1)]
    meta = full(
        b"meta",
        0,
        full(b"hdlr", 0, bytes(4) + b"pict" + bytes(13)),
        full(b"pitm", 0, struct.pack(">H", primary)),
        full(b"iloc", 1, b"\x44\x00", struct.pack(">H", len(items)), places),
        full(b"iinf", 0, struct.pack(">H", len(items)), *infe),
        *([full(b"iref", 0, *references)] if references else []),
        box(
            b"iprp",
            box(b"ipco", *properties),
            full(b"ipma", 0, struct.pack(">I", len(items)), associations),
        ),
        box(b"idat", idat),
        extra,
    )
    return box(b"ftyp", brand, bytes(4), b"mif1", brand) + meta


def av1(width: int, height: int, *, bits: int | None = None, reduced: bool = True) -> bytes:
    """An OBU with a sequence header (AV1, 5.5.1), as far as the size."""
    wide, high = (bits or max((side - 1).bit_length(), 1) for side in (width, height))
    text = "000" + "1" + ("1" + "00000" if reduced else "0" + "0" + "0" + "00000" + "0" * 12 + "00100")
    text += f"{wide - 1:04b}{high - 1:04b}{width - 1:0{wide}b}{height - 1:0{high}b}"
    body = int(text.ljust(160, "0"), 2).to_bytes(20, "big")
    return bytes([1 << 3 | 2, len(body)]) + body


def golomb(number: int) -> str:
    digits = f"{number + 1:b}"
    return "0" * (len(digits) - 1) + digits


def hvcc(width: int, height: int) -> bytes:
    """A box with a sequence parameter set (H.265, 7.3.2.2.1), as far as the size."""
    text = "0000" + "000" + "1" + f"{0x01_60000000_900000000000_5D:096b}" + golomb(0) + golomb(1)
    text += golomb(width) + golomb(height)
    payload = int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")
    escaped, zeros = bytearray(), 0
    for byte in payload:
        if zeros == 2 and byte < 4:
            escaped.append(3)
            zeros = 0
        escaped.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    unit = b"\x42\x01" + bytes(escaped)
    return box(b"hvcC", bytes(21) + b"\x03" + b"\x01", b"\x21" + struct.pack(">HH", 1, len(unit)) + unit)


CONFIG = box(b"av1C", b"\x81\0\0\0")
SMALL, LARGE = ispe(64, 64), 400


def grid(rows: int, columns: int, width: int, height: int) -> bytes:
    return struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)


def tiles(count: int, coded: bytes, properties: Sequence[bytes] = (SMALL, CONFIG)) -> Iterator[Item]:
    return (Item(b"av01", coded, properties) for _ in range(count))


TOO_LARGE = {
    "an AVIF of Pillow's that says 64 × 64": stated(avif(LARGE, LARGE), 64, 64),
    "an animation": avif(LARGE, LARGE, save_all=True, append_images=[Image.new("RGB", (LARGE, LARGE))]),
    "a picture by hand": heif(Item(b"av01", av1(LARGE, LARGE), (SMALL, CONFIG))),
    "of another brand": heif(Item(b"av01", av1(LARGE, LARGE), (SMALL, CONFIG)), brand=b"mif1"),
    "a sequence header in the configuration": heif(
        Item(b"av01", b"", (SMALL, box(b"av1C", b"\x81\0\0\0", av1(LARGE, LARGE))))
    ),
    "the second of two sequence headers": heif(Item(b"av01", av1(64, 64) + av1(LARGE, LARGE), (SMALL, CONFIG))),
    "frames that may have a size of their own": heif(
        Item(b"av01", av1(64, 64, bits=16, reduced=False), (SMALL, CONFIG))
    ),
    "a picture that states a large size": heif(Item(b"av01", av1(64, 64), (ispe(LARGE, LARGE), CONFIG))),
    "the canvas of a grid": heif(
        Item(b"grid", grid(1, 1, LARGE, LARGE), (SMALL,), dimg=[2]), Item(b"av01", av1(64, 64), (SMALL, CONFIG))
    ),
    "the canvas of an overlay": heif(
        Item(b"iovl", bytes(10) + struct.pack(">HHHH", LARGE, LARGE, 0, 0), (SMALL,), dimg=[2]),
        Item(b"av01", av1(64, 64), (SMALL, CONFIG)),
    ),
    "a tile": heif(
        Item(b"grid", grid(1, 2, 128, 64), (SMALL,), dimg=[2, 3]),
        Item(b"av01", av1(64, 64), (SMALL, CONFIG)),
        Item(b"av01", av1(LARGE, LARGE), (SMALL, CONFIG)),
    ),
    "its alpha": heif(
        Item(b"av01", av1(64, 64), (SMALL, CONFIG)), Item(b"av01", av1(LARGE, LARGE), (SMALL, CONFIG), auxl=[1])
    ),
    "a HEIC": heif(Item(b"hvc1", b"", (SMALL, hvcc(LARGE, LARGE))), brand=b"heic"),
    "a parameter set among a HEIC's data": heif(
        Item(b"hvc1", bytes(2) + hvcc(LARGE, LARGE)[34:], (SMALL, hvcc(64, 64))),
        brand=b"heic",
    ),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_picture_that_is_larger_than_the_file_says(name, no_decoder):
    with pytest.raises(ImageError, match=r"pixels in a frame, icon or tile of it, the limit is 100,000") as caught:
        decode_image(TOO_LARGE[name], LIMITS)
    assert caught.value.reason is Reason.TOO_MANY_PIXELS


MANY = {
    "tiles that share their bytes": heif(
        Item(b"grid", grid(10, 10, 300, 300), (SMALL,), dimg=range(2, 102)), *tiles(100, av1(300, 300))
    ),
    "one tile, again and again": heif(
        Item(b"grid", grid(10, 10, 300, 300), (SMALL,), dimg=[2] * 100), *tiles(1, av1(300, 300))
    ),
    "grids of grids": heif(
        *(Item(b"grid", grid(2, 2, 100, 100), (SMALL,), dimg=[n + 2] * 4) for n in range(6)), *tiles(1, av1(64, 64))
    ),
}


@pytest.mark.parametrize("name", MANY)
def test_more_tiles_than_a_picture_of_that_size_needs(name, no_decoder):
    with pytest.raises(ImageError, match=r"its tiles have [\d,]+ pixels, the limit is 4 times 100,000") as caught:
        decode_image(MANY[name], LIMITS)
    assert caught.value.reason is Reason.TOO_MANY_PIXELS


DAMAGED = {
    "grids without end": (
        heif(*(Item(b"grid", grid(1, 2, 64, 64), (SMALL,), dimg=[2 - n, 2 - n]) for n in range(2))),
        "pictures made of each other",
    ),
    "tiles of no size, by the thousand": (
        heif(*(Item(b"grid", grid(9, 9, 9, 9), dimg=[n + 2] * 90) for n in range(4)), *tiles(1, av1(1, 1))),
        "more than 10,000 others",
    ),
    "a picture of no size": (heif(Item(b"av01", b"\x32\0", (SMALL, CONFIG))), "does not say its size"),
    "a picture of zip data": (heif(Item(b"unci", b"", (SMALL,))), "kind 'unci', which is not read"),
    "no picture at all": (heif(primary=7), "kind '', which is not read"),
    "metadata of a bomb": (
        heif(*tiles(1, av1(64, 64)), Item(b"mime", b"", text=b"\0application/rdf+xml\0deflate\0")),
        "metadata that are compressed",
    ),
    "boxes by the hundred thousand": (heif(*tiles(1, av1(64, 64)), extra=box(b"free") * 100_001), "more than 100,000"),
    "units by the hundred thousand": (
        heif(*tiles(1, av1(64, 64) + b"\x12\0" * 100_001)),
        "more than 100,000 boxes, entries of boxes, and units",
    ),
    "boxes inside boxes": (heif(*tiles(1, av1(64, 64))) + b"\0\0\0\0moov" * 2000, "without end"),
    "a place that is cut off": (
        heif(*tiles(1, av1(64, 64)), extra=full(b"iloc", 1, b"\x44\x00", struct.pack(">H", 9))),
        "an iloc that is cut off",
    ),
    "a sequence header that is cut off": (heif(*tiles(1, av1(64, 64)[:5])), "cut off"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_cannot_be_told_is_not_decoded(name, no_decoder):
    data, words = DAMAGED[name]
    with pytest.raises(ImageError, match=words) as caught:
        decode_image(data, LIMITS)
    assert caught.value.reason is Reason.CORRUPT


def test_usual_files_stay():
    photo = Image.effect_noise((321, 255), 60).convert("RGB")
    exif = Image.Exif()
    exif[0x010F] = "maker" * 1000
    for options in ({}, {"exif": exif}, {"quality": 100, "subsampling": "4:4:4"}, {"tile_rows": 1, "tile_cols": 1}):
        sink = io.BytesIO()
        photo.save(sink, "AVIF", **options)
        assert cost_of(sink.getvalue()) == Cost(((321, 255), (321, 255)), 321 * 255)
        assert decode_image(sink.getvalue(), LIMITS).size == (321, 255)
    assert cost_of(avif(321, 255, "RGBA")) == Cost(((321, 255),) * 4, 2 * 321 * 255)
    animation = avif(120, 80, save_all=True, append_images=[photo.resize((120, 80))] * 20)
    assert set(cost_of(animation).sizes) == {(120, 80)}
    assert decode_image(animation, LIMITS).size == (120, 80)
    assert decode_image(stated(avif(300, 200), 150, 100), LIMITS).size == (150, 100)  # wrong, and cheap
    assert cost_of(b"\x89PNG\r\n\x1a\n") is None


def test_a_grid_that_libavif_reads_is_within_the_limits():
    """Two tiles of Pillow's: the reader here and libavif see the same file."""
    tile = avif(64, 64)
    begin = tile.index(b"mdat") + 4
    config = tile[tile.index(b"av1C") - 4 :][: int.from_bytes(tile[tile.index(b"av1C") - 4 :][:4], "big")]
    pixi = full(b"pixi", 0, b"\x03\x08\x08\x08")
    properties = (SMALL, config, pixi)
    data = heif(
        Item(b"grid", grid(1, 2, 100, 64), (ispe(100, 64), pixi), dimg=[2, 3]),
        *(Item(b"av01", tile[begin:], properties) for _ in range(2)),
    )
    assert cost_of(data).pixels == 2 * 64 * 64
    assert decode_image(data, LIMITS).size == (100, 64)


def test_sizes_in_sequence_headers():
    def none() -> None:
        """No limit."""

    assert list(av1_sizes(av1(1, 1) + av1(4033, 7), none)) == [(1, 1), (4033, 7)]
    assert list(av1_sizes(av1(640, 480, reduced=False), none)) == [(640, 480)]
    assert list(av1_sizes(av1(640, 480, bits=12, reduced=False), none)) == [(4096, 4096)]
    assert hevc_config_sizes(hvcc(4032, 3024)[8:], none) == ([(4032, 3024)], 4)
    # Written by x265 for a picture of 48 × 32, coded in blocks of eight.
    assert hevc_config_sizes(base64.b64decode(X265)[8:], none)[0] == [(64, 64)]
    with pytest.raises(CodedError, match="cut off"):
        hevc_config_sizes(b"\x01", none)


X265 = (
    "AAAAdmh2Y0MBA3AAAACQAAAAAAAe8AD8/fj4AAAPA2AAAQAYQAEMAf//A3AAAAMAkAAAAwAAAwAeugJAYQABACpCAQEDcAAAAwCQAAADAAADAB6g"
    "IIEFlurkprm4CGgwIAAAAwMgAAADACFiAAEABkQBwXPAiQ=="
)


def test_random_damage_is_an_image_error_or_a_picture():
    rng = np.random.default_rng(0)
    files = [avif(48, 32, "RGBA"), TOO_LARGE["a tile"], MANY["grids of grids"]]
    for number in range(600):
        data = bytearray(files[number % 3])
        for place in rng.integers(len(data), size=6):
            data[place] = rng.integers(256)
        with suppress(CodedError):
            cost_of(bytes(data[: rng.integers(len(data)) + 1]))
