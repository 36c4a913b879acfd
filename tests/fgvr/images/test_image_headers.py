"""Files of a few kilobytes that claim gigabytes, or hours: refused by their headers, and no decoder asked."""

import io
import struct
import zlib

import pytest
from PIL import Image, PngImagePlugin

from fgvr.config.data import ImageLimits
from fgvr.images.headers import excess, stated_sizes
from fgvr.images.read import ImageError, decode_image
from fgvr.schemas import Reason

LIMITS = ImageLimits(max_pixels=1_000_000)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def piece(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes((1 + 3 * width) * height))
    return b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", header) + piece(b"IDAT", rows) + piece(b"IEND", b"")


def icon(*images: bytes) -> bytes:
    directory, body, place = struct.pack("<HHH", 0, 1, len(images)), b"", 6 + 16 * len(images)
    for image in images:
        directory += struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(image), place + len(body))
        body += image
    return directory + body


def bitmap(width: int, height: int) -> bytes:
    return struct.pack("<IiiHHIIiiII", 40, width, 2 * height, 1, 32, 0, 0, 0, 0, 0, 0) + bytes(64)


def tiff(*entries: tuple[int, int, int, int], order: str = "<", big: bool = False, data: bytes = b"") -> bytes:
    mark = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    start = mark + (struct.pack(order + "HHQ", 8, 0, 16) if big else struct.pack(order + "I", 8))
    page = struct.pack(order + ("Q" if big else "H"), len(entries))
    for tag, kind, count, value in entries:
        form = ("H" if kind == 3 and count == 1 else "I") if not big else ("H6x" if kind == 3 and count == 1 else "Q")
        number = struct.pack(order + form, value)
        page += struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, count) + number.ljust(8 if big else 4, b"\0")
    return start + page + struct.pack(order + ("Q" if big else "I"), 0) + data


def grey(*more: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
    usual = [(256, 4, 1, 10), (257, 4, 1, 10), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    return sorted([*usual, *more])


def gif(*frames: tuple[int, int, int, int]) -> bytes:
    start = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + bytes(6)
    drawn = b"".join(b"\x2c" + struct.pack("<HHHHB", *frame, 0) + b"\x02\x02\x4c\x01\x00" for frame in frames)
    return start + b"\x21\xfe\x03abc\x00" + drawn + b"\x3b"


TOO_LARGE = {
    "icon of a PNG": icon(png(1001, 1000)),
    "second icon": icon(png(16, 16), png(2000, 2000)),
    "icon of a bitmap": icon(bitmap(1001, 1000)),
    "icon upside down": icon(bitmap(1001, -1000)),
    "frame of a GIF": gif((0, 0, 10, 10), (0, 0, 1001, 1000)),
    "frame far away": gif((0, 0, 10, 10), (60_000, 60_000, 10, 10)),
    "tile": tiff(*grey((322, 4, 1, 32_768), (323, 4, 1, 32_768), (324, 4, 1, 8), (325, 4, 1, 9))),
    "tile of a Mac": tiff(*grey((322, 3, 1, 2000), (323, 3, 1, 2000), (324, 4, 1, 8), (325, 4, 1, 9)), order=">"),
    "tile of a BigTIFF": tiff(*grey((322, 4, 1, 2000), (323, 4, 1, 2000), (324, 4, 1, 8), (325, 4, 1, 9)), big=True),
}
STRIPS = 2**20 + 1
EXCESS = {
    "strips": tiff(*grey((273, 4, STRIPS, 8), (279, 4, 1, 1), (278, 4, 1, 1))),
    "bits": tiff(*[entry for entry in grey((258, 3, STRIPS, 8)) if entry != (258, 3, 1, 8)]),
    "fractions": tiff(*grey((700, 5, STRIPS, 8)), order=">"),
    "BigTIFF": tiff(*grey((273, 16, 2**40, 8)), big=True),
    "many entries": tiff(*grey(*((1000 + n, 4, 2000, 8) for n in range(600)))),
}


@pytest.fixture
def no_decoder(monkeypatch):
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a decoder was asked")

    monkeypatch.setattr(Image, "open", opened)


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_would_be_decoded_before_its_size_is_known(name, no_decoder):
    with pytest.raises(ImageError, match=r"pixels in a frame, icon or tile of it, the limit is 1,000,000") as caught:
        decode_image(TOO_LARGE[name], LIMITS)
    assert caught.value.reason is Reason.TOO_MANY_PIXELS


@pytest.mark.parametrize("name", EXCESS)
def test_headers_of_millions_of_numbers(name, no_decoder):
    with pytest.raises(ImageError, match=r"a TIFF whose header has [\d,]+ numbers") as caught:
        decode_image(EXCESS[name], LIMITS)
    assert caught.value.reason is Reason.CORRUPT


def test_exif_in_a_thousand_pieces(no_decoder):
    """Pillow adds each to the ones before: 59 MB took 95 seconds."""
    jpeg = saved(Image.new("RGB", (8, 8)), "JPEG")
    piece = b"\xff\xe1" + struct.pack(">H", 65_535) + b"Exif\0\0" + bytes(65_527)
    with pytest.raises(ImageError, match="bytes of EXIF"):
        decode_image(jpeg[:2] + piece * 65 + jpeg[2:], LIMITS)
    assert excess(jpeg[:2] + b"\xff" + piece * 3 + jpeg[2:]) is None


def jpeg_of_scans(scans: int) -> bytes:
    """A progressive JPEG whose last scan, a pass over the whole picture, comes that often."""
    jpeg = saved(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    return jpeg[:-2] + jpeg[jpeg.rindex(b"\xff\xda") : -2] * scans + b"\xff\xd9"


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 255, marker, 2 + len(data)) + data


SMALL_JPEG = saved(Image.new("RGB", (8, 8)), "JPEG")
SMALL_GIF = saved(Image.new("L", (8, 8)), "GIF")
COLOURS = SMALL_GIF.index(b"\x2c\0\0\0\0")  # the end of its palette, where the only frame begins
COMMENT = b"\x21\xfe\x01x\0"
MANY = {
    "scans": jpeg_of_scans(2000),
    "records": SMALL_JPEG[:2] + segment(0xED, b"Photoshop 3.0\0" + bytes(60_000)) * 80 + SMALL_JPEG[2:],
    "fill bytes": SMALL_JPEG[:2] + b"\xff" * 3_000_000 + SMALL_JPEG[2:],
    "an early end, then fill bytes": SMALL_JPEG[:2] + b"\xff\xd9" + b"\xff" * 3_000_000 + SMALL_JPEG[2:],
    "segments": SMALL_JPEG[:2] + segment(0xFE, b"x") * 50_000 + SMALL_JPEG[2:],
    "comments": SMALL_GIF[:COLOURS] + COMMENT * 70_000 + SMALL_GIF[COLOURS:],
    "a comment": b"P6\n#" + b"x" * 3_000_000 + b"\n8 8 255\n" + bytes(192),
    "chunks": png(8, 8)[:33] + piece(b"abCd") * 100_001 + png(8, 8)[33:],
    "data in small chunks": png(8, 8)[:33] + piece(b"IDAT") * 100_001 + png(8, 8)[33:],
    "numbers in letters": b"P3 2500 2500 9\n" + b"1 " * 2500 * 2500 * 3,
    "bits in letters": b"P1 5000 4000\n" + b"1" * 5000 * 4000,
    "runs": b"BM" + bytes(28) + b"\1\0\0\0" + b"\1\5" * 9_000_000,
    "runs of half bytes": b"BM" + bytes(28) + b"\2\0\0\0" + b"\1\5" * 9_000_000,
    "blanks": b"P5" + b" " * 3_000_000 + b"8 8 255\n" + bytes(64),
}


@pytest.mark.parametrize("name", MANY)
def test_what_a_program_writes_a_few_of_comes_in_thousands(name, no_decoder):
    with pytest.raises(ImageError, match="more than a header needs") as caught:
        decode_image(MANY[name], LIMITS)
    assert caught.value.reason is Reason.CORRUPT


def test_a_few_of_them_and_what_lies_behind_a_picture_are_fine():
    files = [
        jpeg_of_scans(40),
        jpeg_of_scans(3) + b"\xff\xda\0\x0c" * 500,  # a video that a telephone puts behind the picture
        SMALL_JPEG[:2] + segment(0xE2, b"ICC_PROFILE\0" + b"\xff\xda" * 30_000) * 3 + SMALL_JPEG[2:],
        SMALL_JPEG[:2] + b"\xff" * 100 + segment(0xED, bytes(65_000)) * 9 + SMALL_JPEG[2:],
        b"P6 # GIMP\n# two lines\n200 # wide\n200\n255\n" + bytes(120_000),
        b"Pf\n200 100\n-1.0\n" + bytes(80_000),
        b"P4\n1000 1000\n" + bytes(125_000),
        b"P3 300 300 9\n" + b"1 " * 300 * 300 * 3,
        png(8, 8)[:33] + piece(b"abCd") * 1000 + png(8, 8)[33:],
        saved(Image.new("L", (4096, 4097)).crop((0, 0, 999, 999)), "BMP"),
    ]
    for data in files:
        assert excess(data) is None
        assert decode_image(data, LIMITS).size[0] >= 8


def test_frames_of_a_huge_empty_canvas_are_not_all_decoded(monkeypatch):
    loaded = []
    size = (600, 500)
    frames = [Image.new("RGBA", size, (0, 0, shade, 0)) for shade in range(1, 12)]
    animation = saved(Image.new("RGBA", size), "PNG", save_all=True, append_images=frames)
    seek = PngImagePlugin.PngImageFile.seek
    monkeypatch.setattr(
        PngImagePlugin.PngImageFile, "seek", lambda self, frame: (loaded.append(frame), seek(self, frame))
    )
    assert decode_image(animation, LIMITS).size == size
    assert loaded == [1, 2, 0]  # three canvases of 300,000 pixels are within a limit of a million


def test_usual_files_stay():
    photo = Image.effect_noise((900, 700), 60).convert("RGB")
    exif = Image.Exif()
    exif[0x010F] = "maker" * 1000
    frames = {"save_all": True, "append_images": [photo.rotate(9)]}
    files = [
        *(saved(photo, "JPEG", exif=exif), saved(photo, "GIF", **frames), saved(photo, "TIFF", **frames)),
        *(saved(photo, "TIFF", compression="tiff_lzw"), saved(photo, "TIFF", big_tiff=True), saved(photo, "PNG")),
        *(saved(photo.convert("P"), "TIFF"), saved(photo, "WEBP"), saved(photo, "BMP"), saved(photo, "JPEG2000")),
    ]
    for data in files:
        assert excess(data) is None
        assert decode_image(data, LIMITS).size == (900, 700)
        for cut in range(1, 300, 7):  # a header that ends is the decoder's business
            list(stated_sizes(data[:cut]))
            excess(data[:cut])
    small = saved(photo.resize((64, 64)), "ICO", sizes=[(16, 16), (64, 64)])
    assert sorted(stated_sizes(small)) == [(16, 16), (64, 64)]
    assert decode_image(small, LIMITS).size == (64, 64)
    assert list(stated_sizes(icon(bitmap(32, 32)))) == [(32, 32)]
    assert list(stated_sizes(gif((0, 0, 10, 10), (2, 3, 4, 5)))) == [(10, 10), (6, 8)]


def test_pages_in_a_circle_end():
    page = bytearray(tiff(*grey()))
    page[-4:] = struct.pack("<I", 8)
    assert list(stated_sizes(bytes(page))) == []
    assert excess(bytes(page)) is None


def test_pages_of_millions_of_entries(no_decoder):
    """Each of them a number of its own: the counts alone do not tell."""
    many = [(65_000, 2, 1, 0)] * 70_000
    with pytest.raises(ImageError, match="a page of more than 65,535 entries") as caught:
        decode_image(tiff(*grey(), *many, big=True), LIMITS)
    assert caught.value.reason == Reason.CORRUPT
    assert excess(tiff(*grey(), *many[:60_000], big=True)) is None
