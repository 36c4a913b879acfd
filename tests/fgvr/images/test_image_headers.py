"""Files of a few kilobytes that claim gigabytes, or hours: refused by their headers, and no decoder asked."""

import io
import itertools
import struct
import tracemalloc
import zlib

import pytest
from PIL import Image, PngImagePlugin

from fgvr.config.data import ImageLimits
from fgvr.images.headers import excess, stated_sizes
from fgvr.images.jpeg2000 import Picture, Style
from fgvr.images.read import ImageError, decode_image
from fgvr.images.tiff import tile_sizes
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
    "tile of eight bytes": tiff(*grey((322, 16, 1, 2000), (323, 16, 1, 2000)), order=">", big=True),
}
STRIPS = 2**20 + 1
EXCESS = {
    "strips": tiff(*grey((273, 4, STRIPS, 8), (279, 4, 1, 1), (278, 4, 1, 1))),
    "bits": tiff(*[entry for entry in grey((258, 3, STRIPS, 8)) if entry != (258, 3, 1, 8)]),
    "fractions": tiff(*grey((700, 5, STRIPS, 8)), order=">"),
    "BigTIFF": tiff(*grey((273, 16, 2**40, 8)), big=True),
    "many entries": tiff(*grey(*((1000 + n, 4, 2000, 8) for n in range(600)))),
    "in a wrong order": b"MM*\0" + tiff(*grey((273, 4, STRIPS, 8)), order=">")[4:],
    "in the other wrong order": b"II\0*" + tiff(*grey((273, 4, STRIPS, 8)))[4:],
    "no BigTIFF to Pillow": b"MM\0+" + tiff(*grey((273, 4, STRIPS, 8)), order=">")[4:],
    "a directory that is cut off": tiff(*grey((273, 4, STRIPS, 8)))[:-5].replace(b"\x07\0", b"\xff\0", 1),
    "EXIF of a page": tiff(*grey((34665, 4, 1, 8 + 2 + 7 * 12 + 4)), data=tiff((37121, 3, STRIPS, 8))[8:]),
    "place of a BigTIFF": tiff(
        *grey((34853, 16, 1, 16 + 8 + 7 * 20 + 8)), big=True, data=tiff((7, 5, STRIPS, 8), big=True)[16:]
    ),
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


def test_exif_of_an_avif_is_bounded(no_decoder):
    """Pillow makes Python's numbers of all of it while it opens the file, if the picture is turned."""
    exif = Image.Exif()
    exif[0x0112], exif[0x9000] = 6, b"x" * 5_000_000
    with pytest.raises(ImageError, match=r"AVIF, with 5,000,0\d\d bytes of EXIF") as caught:
        decode_image(saved(Image.new("RGB", (16, 16)), "AVIF", exif=exif), LIMITS)
    assert caught.value.reason is Reason.CORRUPT


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


def test_only_the_first_pages_are_looked_at_whether_they_have_tiles_or_not():
    """Directories of 65,535 entries may lie over each other, four bytes per further page."""
    pages, size = [], 2 + 2 * 12 + 4
    for number in range(6):
        tiles = [(322, 3, 1, 16 + number), (323, 3, 1, 16)] if number % 2 else [(256, 3, 1, 9), (257, 3, 1, 9)]
        entries = b"".join(struct.pack("<HHIHxx", *each) for each in tiles)
        following = 8 + size * (number + 1) if number < 5 else 0
        pages.append(struct.pack("<H", len(tiles)) + entries + struct.pack("<I", following))
    data = b"II*\0" + struct.pack("<I", 8) + b"".join(pages)
    assert list(tile_sizes(data, 9)) == [(17, 16), (19, 16), (21, 16)]
    assert list(tile_sizes(data, 3)) == [(17, 16)]


def jpeg2000(width: int = 1000, height: int = 1000, **more: object) -> bytes:
    """A raw codestream, written from ITU-T T.800, annex A, whose only tile part holds nothing but zeros.

    `tile`: its sides. `style` and `of_tile`: segments COD or COC of the main header, and of the tile's.
    """
    siz = struct.pack(">H8IH", 0, width, height, 0, 0, *more.get("tile", (width, height)), 0, 0, 1) + bytes([7, 1, 1])
    head = b"\xff\x4f" + segment(0x51, siz) + more.get("style", cod()) + segment(0x5C, b"\x40" + b"\x40" * 97)
    of_tile = more.get("of_tile", b"")
    start = segment(0x90, struct.pack(">HIBB", 0, 14 + len(of_tile) + 64, 0, 1))
    return head + start + of_tile + b"\xff\x93" + bytes(64) + b"\xff\xd9"


def coding(block: int, precincts: tuple[int, ...], levels: int) -> bytes:
    return bytes([levels, block, block, 0, 1, *precincts])


def cod(block: int = 4, precincts: tuple[int, ...] = (), layers: int = 1, levels: int = 0) -> bytes:
    return segment(0x52, struct.pack(">BBHB", bool(precincts), 0, layers, 0) + coding(block, precincts, levels))


def coc(block: int = 4, precincts: tuple[int, ...] = (), levels: int = 0) -> bytes:
    return segment(0x53, bytes([0, bool(precincts)]) + coding(block, precincts, levels))


def test_many_headers_over_each_other_take_no_memory(no_decoder):
    """Each states 16,000 components, in bytes that are those of the next headers, too."""
    count = 16_000
    many = b"".join(
        b"\xff\x51" + struct.pack(">HH8IH", 38 + 3 * count, 0, 900 + number, 9, 0, 0, 9, 9, 0, 0, count)
        for number in range(300)
    )
    data = b"\xff\x4f" + many + bytes([1]) * (3 * count) + cod()
    tracemalloc.start()
    assert excess(data) is not None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 2**20


def jp2(code: bytes, width: int, height: int) -> bytes:
    """The codestream in a file whose box states a size of its own."""

    def box(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", 8 + len(data)) + kind + data

    picture = box(b"ihdr", struct.pack(">IIHBBBB", height, width, 1, 7, 7, 0, 0))
    colours = box(b"colr", b"\1\0\0" + struct.pack(">I", 17))
    start = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 " + bytes(4) + b"jp2 ")
    return start + box(b"jp2h", picture + colours) + box(b"jp2c", code)


ONE_PIXEL = cod(precincts=(0,))
IN_PIECES = {
    "precincts of a pixel": jpeg2000(style=ONE_PIXEL),
    "in a box": jp2(jpeg2000(style=ONE_PIXEL), 1000, 1000),
    "of two resolutions": jpeg2000(style=cod(precincts=(0, 0x11), levels=1)),
    "of a component": jpeg2000(style=cod() + coc(precincts=(0,))),
    "of a tile": jpeg2000(of_tile=ONE_PIXEL),
    "of a tile's component": jpeg2000(of_tile=coc(precincts=(0,))),
    "behind a marker that nobody knows": jpeg2000(style=cod() + b"\xff\x30\0\x40" + ONE_PIXEL),
    "blocks of 16 pixels": jpeg2000(2500, 2500, style=cod(block=0)),
    "tiles of a pixel": jpeg2000(200, 200, tile=(1, 1)),
    "layers": jpeg2000(style=cod(precincts=(0x55,), layers=65_535)),
    "markers": jpeg2000(style=cod() * 70_000),
    "ways": jpeg2000(style=b"".join(cod(layers=layers, levels=layers) for layers in range(1, 30))),
}


@pytest.mark.parametrize("name", IN_PIECES)
def test_a_jpeg_2000_of_a_million_pieces(name, no_decoder):
    """OpenJPEG allocates 550 bytes for each of them before it looks at any data."""
    with pytest.raises(ImageError, match="more than a header needs: a JPEG 2000") as caught:
        decode_image(IN_PIECES[name], ImageLimits())
    assert caught.value.reason is Reason.CORRUPT


def test_a_jpeg_2000_larger_than_its_box_says(no_decoder):
    with pytest.raises(ImageError, match=r"20000 × 20000 pixels in a frame") as caught:
        decode_image(jp2(jpeg2000(20_000, 20_000), 64, 64), ImageLimits())
    assert caught.value.reason is Reason.TOO_MANY_PIXELS


def test_pieces_of_a_jpeg_2000_as_the_standard_counts_them():
    """Against every sample's precinct and code block: B.5 to B.7, with a grid, tiles and samples that do not align."""
    picture = Picture((5, 70, 3, 17), (2, 41, 0, 23), ((1, 1), (2, 3)))
    style = Style((3, 2), ((2, 1), (3, 3), (4, 2)))
    precincts, blocks = set(), set()
    for number, (dx, dy) in enumerate(picture.components):
        for x, y in itertools.product(range(-(-5 // dx), -(-70 // dx)), range(-(-2 // dy), -(-41 // dy))):
            tile = (number, (x * dx - 3) // 17, y * dy // 23)
            # A sample at an odd place of a level is the first of a band of high frequencies (B-15), at an even place it
            # goes on to the next level.
            for resolution in (2, 1, 0):
                ppx, ppy = style.precincts[resolution]
                precincts.add((tile, resolution, x >> ppx, y >> ppy))
                band = (x & 1, y & 1) if resolution else (0, 0)
                low = 1 if resolution else 0
                if band != (0, 0) or not resolution:
                    cell = x >> low, y >> low
                    block = cell[0] >> min(3, ppx - low), cell[1] >> min(2, ppy - low)
                    blocks.add((tile, resolution, band, *block))
                    break
                x, y = x // 2, y // 2  # noqa: PLW2901
    found, pieces = picture.precincts_and_blocks(style)
    of_bands = sum(3 if resolution else 1 for _, resolution, *_ in precincts)
    assert (found, pieces) == (len(precincts), of_bands + len(blocks))
    assert picture.tiles == 4 * 2
    assert picture.samples == 65 * 39 + 33 * 13


PHOTO = Image.effect_noise((600, 500), 60).convert("RGB")


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"irreversible": True}, {"num_resolutions": 1}, {"num_resolutions": 9}, {"no_jp2": True}),
        {"tile_size": (64, 64)},
        {"tile_size": (256, 256), "offset": (20, 30), "tile_offset": (10, 10)},
        {"precinct_size": (256, 256), "codeblock_size": (64, 64), "progression": "RPCL"},
        {"precinct_size": (128, 128), "codeblock_size": (32, 32), "quality_layers": [*range(100, 0, -4)]},
        {"codeblock_size": (8, 8)},
    ],
)
def test_a_jpeg_2000_as_programs_write_it(options):
    data = saved(PHOTO, "JPEG2000", **options)
    assert excess(data) is None
    assert list(stated_sizes(data)) == [(600, 500)]
    assert decode_image(data, LIMITS).size == (600, 500)


def test_a_large_jpeg_2000_of_archives(no_decoder):
    """Tiles, precincts and layers of the profiles that libraries use: 25 layers, tiles of 1,024, precincts of 256."""
    usual = cod(block=4, precincts=(0x77, 0x77, 0x88, 0x88, 0x88, 0x88), layers=25, levels=5)
    for data in (
        jpeg2000(10_000, 10_000, style=usual),
        jpeg2000(10_000, 10_000, style=usual, tile=(1024, 1024)),
        jpeg2000(10_000, 10_000, style=cod(block=3, levels=5, layers=12), tile=(256, 256)),
        jpeg2000(10_000, 10_000, style=usual) + bytes(range(256)) * 1000,
    ):
        assert excess(data) is None
