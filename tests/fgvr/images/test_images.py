import io
import struct

import fsspec
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from fgvr.config.data import ImageLimits
from fgvr.images.pixels import orientation
from fgvr.images.read import ImageError, decode_image, opened_image, read_image, read_image_bytes
from fgvr.schemas import Reason

LIMITS = ImageLimits()


def smooth(width: int, height: int) -> Image.Image:
    """A picture without symmetry and without fine detail, so that every turn and scale can be told."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray((np.stack([x, y, x * y], axis=2) * 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=95, **options)
    return sink.getvalue()


def with_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("short_side", [None, 60])
def test_orientation_as_pillow_understands_it(orientation, short_side):
    data = jpeg(smooth(200, 150), exif=with_orientation(orientation))
    ours = decode_image(data, LIMITS, short_side=short_side)
    theirs = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).resize(ours.size)
    assert abs(np.asarray(ours, dtype=int) - np.asarray(theirs, dtype=int)).mean() < 3


def exif_of(*entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """EXIF of one directory, written from TIFF 6.0; values of more than four bytes are offsets from its start."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(entries))
    written = (
        struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0") for tag, kind, count, value in entries
    )
    return head + b"".join(written) + bytes(4)


def short(value: int, order: str = "<") -> bytes:
    return struct.pack(order + "H", value)


MAKER = (0x010F, 2, 4, b"abc\0")
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_orientation_in_every_format_as_pillow_understands_it(kind, order, orientation):
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F], exif[0x0112], exif[0x9003] = "maker", orientation, "2026:11:29 09:14:05"
    sink = io.BytesIO()
    smooth(60, 40).save(sink, kind, exif=exif)
    theirs = ImageOps.exif_transpose(Image.open(io.BytesIO(sink.getvalue())))
    ours = decode_image(sink.getvalue(), LIMITS)
    assert ours.size == ((40, 60) if orientation > 4 else (60, 40))
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("exif", "xmp"),
    [
        (exif_of(MAKER, (0x0112, 3, 1, short(6))), b""),
        (exif_of(MAKER, (0x0112, 3, 1, short(6, ">")), order=">"), XMP),  # EXIF counts before XMP
        (exif_of(MAKER, (0x0112, 4, 1, struct.pack("<I", 8))), b""),
        (exif_of(MAKER, (0x0112, 3, 1, short(0))), XMP),
        (exif_of(MAKER, (0x0112, 3, 1, short(9))), b""),
        (exif_of(MAKER, (0x0112, 3, 2, short(6) + short(3))), b""),
        (exif_of(MAKER, (0x0112, 3, 3, struct.pack("<I", 0))), XMP),
        (exif_of(MAKER, (0x0112, 3, 3, struct.pack("<I", 99))), XMP),
        (exif_of(MAKER, (0x0112, 3, 0, short(6))), XMP),
        (exif_of(MAKER, (0x0112, 2, 2, b"6\0")), b""),
        (exif_of(MAKER), XMP),
        (exif_of(MAKER)[:14], XMP),
        (exif_of(MAKER, (0x0112, 3, 1, short(6)))[:-6], b""),
        (exif_of((0x0112, 3, 1, short(6)), (0x0112, 3, 1, short(3))), b""),
        (b"MM*\0" + exif_of((0x0112, 3, 1, short(6, ">")), order=">")[4:], b""),
        (b"no EXIF at all", XMP),
        (b"", XMP),
    ],
)
def test_orientation_in_odd_metadata_as_pillow_understands_it(kind, exif, xmp):
    sink, options = io.BytesIO(), {}
    if kind == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    elif xmp:
        options["xmp"] = xmp
    head = b"Exif\0\0" if kind == "JPEG" and exif else b""
    smooth(60, 40).save(sink, kind, exif=head + exif, **options)
    with Image.open(io.BytesIO(sink.getvalue())) as image:
        image.load()
        try:
            theirs = image.getexif().get(0x0112, 1)
        except SyntaxError:
            theirs = 1
        assert orientation(image) == (theirs if theirs in range(1, 9) else 1)


def test_of_an_orientation_of_millions_of_numbers_one_is_read(monkeypatch):
    """Pillow made a Python number of each: 519 MiB and twelve seconds for ten million."""
    monkeypatch.setattr(Image.Exif, "load", lambda *_: pytest.fail("Pillow's reader was asked"))
    numbers = exif_of((0x0112, 3, 1_000_000, struct.pack("<I", 26))) + b"\6\0" * 1_000_000
    for kind in ("PNG", "WEBP"):
        sink = io.BytesIO()
        smooth(60, 40).save(sink, kind, exif=numbers)
        assert decode_image(sink.getvalue(), LIMITS).size == (40, 60)


def test_an_orientation_that_a_caller_sets_counts():
    image = smooth(60, 40)
    image.getexif()[0x0112] = 6
    assert opened_image(image, LIMITS).size == (40, 60)


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((400, 200), 100, (200, 100)),  # exactly a half
        ((400, 200), 101, (400, 200)),  # more than a half: whole
        ((1600, 800), 100, (200, 100)),  # an eighth
        ((1600, 800), 110, (400, 200)),  # two eighths
        ((3200, 1600), 10, (400, 200)),  # never below an eighth
        ((50, 40), 100, (50, 40)),  # never enlarged
    ],
)
def test_scaled_decoding_keeps_the_short_side(size, short_side, expected):
    assert decode_image(jpeg(smooth(*size)), LIMITS, short_side=short_side).size == expected


def with_banner(width: int, height: int, rows: int) -> Image.Image:
    """White, with a black banner at the bottom."""
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    pixels[height - rows :] = 0
    return Image.fromarray(pixels)


@pytest.mark.parametrize("short_side", [None, 60, 90, 150, 340])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_bottom_is_cut_off_whatever_the_scale(short_side, orientation):
    """24 rows of 424, upright: JPEG mixes a banner with its neighbours within its blocks of 8 pixels only."""
    turned = ImageOps.exif_transpose(with_banner(600, 424, 24))
    stored = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
    data = jpeg(turned if stored is None else turned.transpose(stored), exif=with_orientation(orientation))
    image = decode_image(data, ImageLimits(cut_bottom=24), short_side=short_side)
    assert image.width / image.height == pytest.approx(600 / 400, rel=0.02)
    assert image.height >= (short_side or 400)
    assert np.asarray(image).min() > 245
    whole = decode_image(data, LIMITS, short_side=short_side)
    assert np.asarray(whole)[-1].max() < 10


def test_an_image_that_is_nothing_but_its_bottom():
    with pytest.raises(ImageError, match=r"20 rows of pixels, ingest\.limits\.cut_bottom takes 20") as caught:
        decode_image(jpeg(smooth(40, 20)), ImageLimits(cut_bottom=20))
    assert caught.value.reason is Reason.CORRUPT


def test_scaled_decoding_is_nearly_the_whole_image_resized():
    data = jpeg(smooth(1000, 800))
    box = (224, 179)
    quick = np.asarray(decode_image(data, LIMITS, short_side=179).resize(box, Image.Resampling.BICUBIC), dtype=float)
    whole = np.asarray(decode_image(data, LIMITS).resize(box, Image.Resampling.BICUBIC), dtype=float)
    assert abs(quick - whole).max() <= 3


def test_cmyk_and_grey_take_the_same_way_to_rgb():
    cmyk = jpeg(smooth(400, 400).convert("CMYK"))
    assert decode_image(cmyk, LIMITS, short_side=50).size == (400, 400)  # libjpeg scales no CMYK here: Pillow, whole
    grey = decode_image(jpeg(smooth(400, 400).convert("L")), LIMITS, short_side=50)
    assert (grey.mode, grey.size) == ("RGB", (50, 50))


def test_a_jpeg_with_garbage_inside_is_judged_alike_on_both_paths():
    data = bytearray(jpeg(smooth(400, 400)))
    data[len(data) // 2 : len(data) // 2 + 40] = b"\xff\x00" * 20

    def outcome(**options: int) -> object:
        try:
            return decode_image(bytes(data), LIMITS, **options).mode
        except ImageError as error:
            return error.reason

    assert outcome() == outcome(short_side=50)


def test_damaged_metadata_does_not_cost_the_picture():
    data = jpeg(smooth(40, 30), exif=b"Exif\x00\x00MM\x00*" + b"\xff" * 30)
    assert decode_image(data, LIMITS).size == (40, 30)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.full((4, 4), 0.5, np.float32), 128),  # 0–1
        (np.array([[0.0, 10.0]] * 2, np.float32), 0),  # within 0–255: as it is
        (np.array([[-1.0, 1.0]] * 2, np.float32), 0),  # its own range
        (np.full((4, 4), 40_000, np.int32), 156),  # within 16 bits: 40,000 / 257
        (np.full((4, 4), np.nan, np.float32), 0),
    ],
)
def test_deep_grey_is_scaled_not_clipped(values, expected):
    sink = io.BytesIO()
    Image.fromarray(values).save(sink, "TIFF")
    assert decode_image(sink.getvalue(), LIMITS).getpixel((0, 0)) == (expected,) * 3


def test_half_transparent_red_on_white():
    sink = io.BytesIO()
    Image.new("RGBA", (4, 4), (255, 0, 0, 128)).save(sink, "PNG")
    assert decode_image(sink.getvalue(), LIMITS).getpixel((0, 0)) == (255, 127, 127)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_every_listed_format_is_read(kind):
    sink = io.BytesIO()
    Image.new("RGB", (40, 30), (10, 200, 30)).save(sink, kind)
    image = decode_image(sink.getvalue(), LIMITS)
    assert image.size == (40, 30)
    assert image.getpixel((20, 15)) == pytest.approx((10, 200, 30), abs=6)


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("short_side", [None, 40])
def test_a_jpeg_that_lacks_only_its_end_mark_is_whole(missing, options, short_side):
    data = jpeg(smooth(200, 150), **options)
    assert data.endswith(b"\xff\xd9")
    whole, cut = (decode_image(part, LIMITS, short_side=short_side) for part in (data, data[:-missing]))
    assert np.array_equal(np.asarray(whole), np.asarray(cut))
    with pytest.raises(ImageError, match="truncated"):  # pixels are missing
        decode_image(data[: len(data) * 3 // 4], LIMITS, short_side=short_side)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_that_begins_empty_is_shown_by_its_first_picture(kind):
    def saved(*colours: tuple[int, int, int, int]) -> bytes:
        frames = [Image.new("RGBA", (40, 30), colour) for colour in colours]
        sink = io.BytesIO()
        frames[0].save(sink, kind, save_all=True, append_images=frames[1:], lossless=True, duration=100, disposal=2)
        return sink.getvalue()

    nothing, red, blue = (0, 0, 0, 0), (255, 0, 0, 255), (0, 0, 255, 255)
    assert decode_image(saved(nothing, red, blue), LIMITS).getpixel((9, 9)) == (255, 0, 0)
    assert decode_image(saved(red, blue), LIMITS).getpixel((9, 9)) == (255, 0, 0)
    assert decode_image(saved(nothing), LIMITS).getpixel((9, 9)) == (255, 255, 255)


def test_random_damage_never_raises_anything_else():
    rng = np.random.default_rng(0)
    originals = []
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        sink = io.BytesIO()
        smooth(40, 30).save(sink, kind)
        originals.append(sink.getvalue())
    for _ in range(400):
        data = bytearray(originals[rng.integers(len(originals))])
        for place in rng.integers(len(data), size=rng.integers(1, 12)):
            data[place] = rng.integers(256)
        try:
            decode_image(bytes(data[: rng.integers(len(data)) + 1]), LIMITS, short_side=8)
        except ImageError as error:
            assert error.reason in set(Reason)  # noqa: PT017  # most are damaged, some happen to survive


def test_local_reads_stop_at_the_limit(tmp_path):
    (tmp_path / "a.jpg").write_bytes(bytes(101))
    with pytest.raises(ImageError, match="has 101 bytes, the limit is 100"):
        read_image_bytes(str(tmp_path / "a.jpg"), ImageLimits(max_bytes=100))
    assert len(read_image_bytes(str(tmp_path / "a.jpg"), ImageLimits(max_bytes=101))) == 101


def test_object_stores_through_fsspec():
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/photos/a.jpg", jpeg(smooth(40, 30)))
    memory.pipe_file("/photos/zero.jpg", b"")
    assert read_image("memory://photos/a.jpg", LIMITS).size == (40, 30)
    for name, limits, reason in [
        ("a.jpg", ImageLimits(max_bytes=99), Reason.TOO_MANY_BYTES),
        ("zero.jpg", LIMITS, Reason.EMPTY_FILE),
        ("gone.jpg", LIMITS, Reason.NOT_FOUND),
    ]:
        with pytest.raises(ImageError) as caught:
            read_image(f"memory://photos/{name}", limits)
        assert caught.value.reason == reason
