"""Files that are no image, or none that is read: what people are told of them."""

import io
import struct
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fgvr.config.data import ImageLimits
from fgvr.images.formats import unread_tiff, what_it_is
from fgvr.images.read import ImageError, decode_image
from fgvr.schemas import Reason

LIMITS = ImageLimits()
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


def box(brand: bytes, *others: bytes) -> bytes:
    """The first box of a file in ISO 14496-12's format."""
    body = brand + bytes(4) + b"".join(others)
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + bytes(40)


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        file.writestr("a.jpg", b"x")
    return sink.getvalue()


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), sink)
    return sink.getvalue()


def numpy_array() -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.zeros(3))
    return sink.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (LFS, "git-LFS pointer, not the file itself: `git lfs pull`"),
        (b"/annex/objects/SHA256E-s1--ab.jpg\n", "git-annex pointer"),
        (box(b"heic", b"mif1"), "HEIC"),
        (box(b"mif1", b"mif1", b"heic"), "HEIC"),
        (box(b"isom", b"mp41"), "a video (MP4 or QuickTime)"),
        (box(b"qt  "), "a video (MP4 or QuickTime)"),
        (b"\0\0\0\x08wide\0\0\x10\0mdat", "a video (QuickTime)"),
        (box(b"crx ", b"isom"), "a raw photo of a Canon camera"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "a raw photo of a Canon camera"),
        (b"\xff\x0a" + b"\xfa\x1f\x41" * 9, "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "JPEG XL"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
        (b"8BPS\0\1" + bytes(20), "a Photoshop document"),
        (b"\x1aE\xdf\xa3\x9fB\x86", "a video (Matroska or WebM)"),
        (b"RIFF\x10\0\0\0AVI LIST", "a video (AVI)"),
        (zipped(), "a zip archive"),
        (parquet(), "a Parquet file"),
        (numpy_array(), "a NumPy array"),
        (bytes(128) + b"DICM" + bytes(20), "a DICOM file"),
        (bytes(9_000), "nothing but zero bytes"),
        (b"\xef\xbb\xbf\r\n <!DOCTYPE HTML><html>", "an HTML page"),
        (b"<!-- saved from url --><html><body>", "an HTML page"),
        (b'<?xml version="1.0"?>\n<!-- Inkscape --><svg xmlns="http://www.w3.org/2000/svg">', "an SVG drawing"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document (AccessDenied)"),
        (b'{"message": "rate limit"}', "a JSON document"),
        (b"Not Found", "a text (an error message of a web server?)"),
        ("größe".encode() * 60, "a text (an error"),
        (b" \r\n\t ", "text of nothing but blanks"),
        (b"\x8e\x11 no such format \x00\x01", "no known image format"),
    ],
)
def test_what_people_are_told(data, words, without_heif):
    with pytest.raises(ImageError) as caught:
        decode_image(data, LIMITS)
    assert caught.value.reason is Reason.NOT_AN_IMAGE
    assert words in caught.value.detail
    assert caught.value.detail.isprintable()


@pytest.mark.parametrize(
    "start", [b"", b"\xef\xbb\xbf", b"<?xml version='1.0'?><Code>", b"<html>", b"[", b"\x00", b"\xff"]
)
@pytest.mark.parametrize(
    "secret", [b"caac2e8c07d14f0b", b"hunter2", b"AKIAIOSFODNN7EXAMPLE", b'{"key": "0123456789abcdef"}']
)
def test_what_is_no_image_is_never_quoted(start, secret, without_heif):
    """The row's error is shown in the report, and a list may name a file of keys."""
    for data in (start + secret, start + secret + b"</Code>", start + secret * 40):
        with pytest.raises(ImageError) as caught:
            decode_image(data, LIMITS)
        assert not any(secret[at : at + 4].decode() in caught.value.detail for at in range(len(secret) - 3))


def test_any_start_of_any_of_them_is_told_something(without_heif):
    rng = np.random.default_rng(3)
    for data in (LFS, box(b"heic"), zipped(), b'{"a": [', b"<?xml <svg", "grüße".encode()):
        for cut in range(1, len(data)):
            assert what_it_is(data[:cut])
    for size in rng.integers(1, 300, size=300):
        assert what_it_is(rng.bytes(size))


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000"])
def test_damaged_files_of_readable_formats_are_damaged(kind):
    sink = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(sink, kind)
    with pytest.raises(ImageError) as caught:
        decode_image(sink.getvalue()[:48] + b"\xff" * 30, LIMITS)
    assert caught.value.reason is Reason.CORRUPT


def tiff(width: int, height: int, samples: int, bits: int, sample_format: int) -> bytes:
    """An uncompressed RGB TIFF, written from the specification (TIFF 6.0, sections 2 and 19)."""
    pixels = bytes(width * height * samples * bits // 8)
    entries = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, samples, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 8 + 4 * samples),
        (277, 3, 1, samples),
        (278, 3, 1, height),
        (279, 4, 1, len(pixels)),
        (339, 3, samples, 8 + 2 * samples),
    ]
    head = b"II*\0" + struct.pack("<I", 8 + 4 * samples + len(pixels))
    arrays = struct.pack(f"<{samples}H", *[bits] * samples) + struct.pack(f"<{samples}H", *[sample_format] * samples)
    directory = struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        directory += struct.pack("<HHII", tag, kind, count, value)
    return head + arrays + pixels + directory + bytes(4)


def test_a_tiff_of_a_kind_that_is_not_read_is_not_called_damaged():
    data = tiff(6, 4, samples=3, bits=32, sample_format=3)
    with pytest.raises(ImageError) as caught:
        decode_image(data, LIMITS)
    assert caught.value.reason is Reason.NOT_AN_IMAGE
    assert "6 × 4 pixels of 3 × 32-bit floats" in caught.value.detail
    assert unread_tiff(data[:20]) is None
    with pytest.raises(ImageError) as caught:
        decode_image(data[:20], LIMITS)
    assert caught.value.reason is Reason.CORRUPT
    assert decode_image(tiff(6, 4, samples=3, bits=8, sample_format=1), LIMITS).size == (6, 4)
