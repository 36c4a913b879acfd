"""Which image formats are read on this machine, and which file name endings they have.

Pillow's own decoders, and HEIC (what iPhones write) where `pillow-heif` is installed: it brings libheif, which Pillow
does not have.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Final

from PIL import Image

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "PPM", "JPEG2000", "ICO", "HEIF")
"""Formats that are tried. Pillow hands EPS to Ghostscript, which is no place for a stranger's file; TGA has no mark by
which a file could be told from garbage."""

GET_HEIF: Final = "HEIC is read where pillow-heif is installed (`pip install pillow-heif`)"

_NOT_EVERYWHERE: Final = {
    **dict.fromkeys((".heic", ".heics", ".heif", ".heifs", ".hif"), ("HEIF", GET_HEIF)),
    **dict.fromkeys((".avif", ".avifs"), ("AVIF", "this build of Pillow has no AVIF")),
}


@cache
def formats() -> tuple[str, ...]:
    """Those of FORMATS that this machine reads: a build of Pillow may lack AVIF, and HEIF needs a package."""
    Image.init()
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        # Workers are many already. Thumbnails inside a file are another picture than the photo itself.
        pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False)
    return tuple(name for name in FORMATS if name in Image.OPEN)


def not_read_here(endings: Iterable[str]) -> dict[str, str]:
    """Those of some endings whose format this machine does not read, each with what to do."""
    wanted = {ending.lower() for ending in endings}
    return {
        ending: remedy
        for ending, (name, remedy) in _NOT_EVERYWHERE.items()
        if ending in wanted and name not in formats()
    }
