"""How a photo is to be turned, by its EXIF (CIPA DC-008, tag 0x0112), and nothing else of it.

Pillow's reader makes a Python number of each value of a tag: an orientation of ten million numbers, which a PNG, WebP
or AVIF has room for, takes half a gigabyte and twelve seconds.
"""

from __future__ import annotations

import re
import struct
from contextlib import suppress
from typing import Final

from PIL import ExifTags, Image

MAX_EXIF: Final = 4 * 2**20
"""Limit for the bytes of a photo's EXIF (a JPEG's segment holds 64 KiB): Pillow may make numbers of all of it while
opening."""

_START: Final = re.compile(rb"^(?:Exif\0\0){1,2}")
_ORDERS: Final = {b"II": "<", b"MM": ">"}
_NUMBERS: Final = {3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I"}
"""Formats of the types of whole numbers: SHORT, for which the standard asks, and what programs write instead."""
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""Bytes of one value of each type."""
_XMP: Final = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def stated_orientation(image: Image.Image) -> object:
    """What the metadata of an image say of its orientation, of whatever value; None if nothing.

    The file's own EXIF counts, else what a caller set in `image.getexif()`, else XMP. (TIFF has no EXIF around its
    tags: Pillow turns it while loading, and then removes the tag.)

    Raises whatever Pillow raises for damaged metadata, and ValueError.
    """
    exif = image.info.get("exif")
    if not isinstance(exif, bytes):
        return image.getexif().get(ExifTags.Base.Orientation)
    stated = exif_orientation(exif)
    if stated is not None:
        return stated
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
    found = _XMP.search(xmp.encode() if isinstance(xmp, str) else xmp)
    return None if found is None else int(found[1])


def exif_orientation(exif: bytes) -> int | None:
    """The first number in tag 0x0112 of the first directory; None if there is no such tag; 0 if it holds no numbers.

    Damaged directories are read as far as Pillow reads them, so that no photo is turned otherwise than by it. Raises
    ValueError for bytes that are no EXIF.
    """
    exif = _START.sub(b"", exif, count=1)
    order = _ORDERS.get(exif[:2])
    if order is None or exif[2:4] not in {b"*\0", b"\0*"}:
        raise ValueError("no EXIF")
    stored = 0
    with suppress(struct.error):  # it is cut off, and the tag was not among what is left
        (at,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, at)
        for place in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind, count, value = struct.unpack_from(order + "HHI4s", exif, place)
            size = count * _SIZES.get(kind, 0)
            where = place + 8
            if size > len(value):
                (where,) = struct.unpack(order + "I", value)
                stored += size
                if stored > len(exif):
                    continue
                if where + size > len(exif):
                    return None
            if tag == ExifTags.Base.Orientation and size:
                return int(struct.unpack_from(order + _NUMBERS[kind], exif, where)[0]) if kind in _NUMBERS else 0
    return None
