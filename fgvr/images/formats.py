"""Which image formats this machine can read, and what bytes are that should have been an image."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterable
from functools import cache
from typing import Final

from PIL import Image, TiffImagePlugin

# Pillow's own decoders, and HEIC (what iPhones write) where `pillow-heif` is installed: it brings libheif, which
# Pillow does not have.

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "PPM", "JPEG2000", "ICO", "HEIF")
"""Formats that are tried. Not EPS: Pillow hands it to Ghostscript, which is unsafe for untrusted files. Not TGA: it
has no signature, so any garbage could be taken for it."""

GET_HEIF: Final = "HEIC is read where pillow-heif is installed (`pip install pillow-heif`)"

_NOT_EVERYWHERE: Final = {
    **dict.fromkeys((".heic", ".heics", ".heif", ".heifs", ".hif"), ("HEIF", GET_HEIF)),
    **dict.fromkeys((".avif", ".avifs"), ("AVIF", "this build of Pillow has no AVIF")),
}

_STARTS: Final = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"8BPS", "a Photoshop document"),
    (b"II*\x00\x10\x00\x00\x00CR", "a raw photo of a Canon camera"),
    (b"FUJIFILMCCD-RAW", "a raw photo of a Fujifilm camera"),
    (b"IIRO", "a raw photo of an Olympus camera"),
    (b"IIRS", "a raw photo of an Olympus camera"),
    (b"MMOR", "a raw photo of an Olympus camera"),
    (b"IIU\x00", "a raw photo of a Panasonic camera"),
    (b"FOVb", "a raw photo of a Sigma camera"),
    (b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (b"OggS", "an Ogg file (sound or video)"),
    (b"FLV\x01", "a video (Flash)"),
    (b"\x00\x00\x01\xba", "a video (MPEG)"),
    (b"\x00\x00\x01\xb3", "a video (MPEG)"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf'\x1c", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"PAR1", "a Parquet file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x7fELF", "a program"),
    (b"version https://git-lfs.github.com/", "a git-LFS pointer, not the file itself: `git lfs pull` fetches it"),
    (b"/annex/objects/", "a git-annex pointer, not the file itself: `git annex get` fetches it"),
    (b"../.git/annex/", "a git-annex pointer, not the file itself: `git annex get` fetches it"),
)
_HTML: Final = (b"<!doctype html", b"<html", b"<head", b"<body", b"<title", b"<script")
_SVG: Final = re.compile(rb"<(?:\w+:)?svg[\s>]")
_STORE_ERRORS: Final = re.compile(
    rb"<Code>(AccessDenied|AuthenticationFailed|AuthorizationFailure|BlobNotFound|ContainerNotFound|ExpiredToken|"
    rb"InternalError|InvalidAccessKeyId|InvalidArgument|NoSuchBucket|NoSuchKey|PermanentRedirect|RequestTimeTooSkewed|"
    rb"ResourceNotFound|ServerBusy|SignatureDoesNotMatch|SlowDown)</Code>"
)
"""Codes by which S3, Google's and Azure's stores say why there is no object."""
_JSON: Final = re.compile(rb'[\[{]\s*(?:["{\[\]}]|$)')
_HEIF_BRANDS: Final = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_AVIF_BRANDS: Final = {b"avif", b"avis"}
_MARKS: Final = re.compile(rb"^(?:\xef\xbb\xbf)?\s*")


@cache
def formats() -> tuple[str, ...]:
    """Those of FORMATS that this machine can read: a build of Pillow may lack AVIF, and HEIF needs a package."""
    Image.init()
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        # One thread: there are many workers already. No thumbnails: they are not the photo itself.
        pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False)
    return tuple(name for name in FORMATS if name in Image.OPEN)


def not_read_here(endings: Iterable[str]) -> dict[str, str]:
    """Those of the given endings whose format this machine cannot read, each with what to do about it."""
    wanted = {ending.lower() for ending in endings}
    return {
        ending: remedy
        for ending, (name, remedy) in _NOT_EVERYWHERE.items()
        if ending in wanted and name not in formats()
    }


# What bytes are that should have been an image: a download's error page, a pointer file, another format.


def what_it_is(data: bytes) -> str:
    """Says in words what the bytes are, and what to do if known; `data` is not empty and not a readable image.

    Never quotes them: a list may name a file of keys, and these words are shown in the report.
    """
    for look in (known_start, _in_boxes, _by_place, _markup, _text):
        words = look(data)
        if words is not None:
            return words
    return "no known image format"


def heif_brand(data: bytes) -> str | None:
    """HEIF or AVIF if the file is marked as such, damaged or not; else None."""
    if data[4:8] != b"ftyp":
        return None
    brands = {data[8:12], *(data[place : place + 4] for place in range(16, min(_size(data), 64), 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIF" if brands & _HEIF_BRANDS else None


def unread_tiff(data: bytes) -> str | None:
    """How a TIFF's first picture is stored, if its header is valid but Pillow cannot read it; None if it is damaged."""
    try:
        file = io.BytesIO(data)
        facts = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if data[2] == 43 else 8))
        file.seek(facts.next)
        facts.load(file)
        bits = facts.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        kind = facts.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
        size = (facts[TiffImagePlugin.IMAGEWIDTH], facts[TiffImagePlugin.IMAGELENGTH])
        bits, kind = (tuple(value) if isinstance(value, tuple) else (value,) for value in (bits, kind))
        stored = {1: "integers", 2: "signed integers", 3: "floats"}.get(kind[0], "numbers of an unknown kind")
        return f"{size[0]} × {size[1]} pixels of {len(bits)} × {bits[0]}-bit {stored}"
    except Exception:  # damaged headers raise anything
        return None


def _size(data: bytes) -> int:
    return int(struct.unpack(">I", data[:4])[0])


def known_start(data: bytes) -> str | None:
    """What a file is whose first bytes no readable image has, or which is more specific than a TIFF header."""
    return next((words for start, words in _STARTS if data.startswith(start)), None)


def _in_boxes(data: bytes) -> str | None:
    """The kind of an ISO base media file: HEIC and AVIF photos, videos, Canon's newer raw photos."""
    if data[4:8] in {b"moov", b"mdat", b"wide", b"pnot"}:
        return "a video (QuickTime)"
    if data[4:8] != b"ftyp":
        return None
    kind = heif_brand(data)
    if kind == "HEIF":
        return "HEIC (HEIF), damaged" if "HEIF" in formats() else f"HEIC (HEIF). {GET_HEIF}"
    if kind == "AVIF":
        return "AVIF, damaged" if "AVIF" in formats() else "AVIF, which this build of Pillow does not read"
    return "a raw photo of a Canon camera" if data[8:12] == b"crx " else "a video (MP4 or QuickTime)"


def _by_place(data: bytes) -> str | None:
    if data.startswith(b"RIFF"):
        return {b"AVI ": "a video (AVI)", b"WAVE": "a sound (WAV)"}.get(data[8:12])
    if data[128:132] == b"DICM":
        return "a DICOM file"
    return None if data[:4096].strip(b"\0") else "nothing but zero bytes (a file that was not written to its end?)"


def _markup(data: bytes) -> str | None:
    start = _MARKS.sub(b"", data[:1024]).lower()
    if start.startswith(_HTML) or (start.startswith(b"<!--") and b"<html" in start):
        return "an HTML page (an error page of a web server?)"
    if start.startswith((b"<?xml", b"<svg", b"<!doctype svg", b"<!--")) and _SVG.search(start):
        return "an SVG drawing, which has no pixels"
    if start.startswith((b"<?xml", b"<error")):
        said = _STORE_ERRORS.search(data[:1024])
        return f"an XML document{f' ({said[1].decode()})' if said else ''} (an error of an object store?)"
    return "a JSON document (an error of a web server?)" if _JSON.match(start) else None


def _text(data: bytes) -> str | None:
    try:
        text = data[:256].decode()
    except UnicodeDecodeError as error:
        if error.start < min(len(data), 256) - 3:  # not merely a character cut at the end
            return None
        text = data[: error.start].decode()
    if not text.strip():
        return "text of nothing but blanks"
    readable = all(char.isprintable() or char in "\r\n\t" for char in text)
    return "a text (an error message of a web server?)" if readable else None
