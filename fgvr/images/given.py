"""Images passed in by a caller: file bytes, base64 text, paths, URLs, or decoded images."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

from PIL import Image

from fgvr import storage
from fgvr.config.data import ImageLimits
from fgvr.images.read import ImageError, opened_image, read_image_bytes
from fgvr.schemas import Reason

WANTED = "the bytes of an image file, their base64 text or data: URL, a path or URL, or a PIL image"
_DATA_URL = re.compile(r"data:[^,]*?(?P<base64>;base64)?,", re.IGNORECASE)
_BASE64 = re.compile(rb"[A-Za-z0-9+/=_\-\s]+")
_LONGEST_PATH = 4096
_SHORTEST_FILE = 40
"""Base64 text shorter than this many characters cannot hold an image in any format."""


class GivenTypeError(TypeError):
    """The caller passed a type that no image can be read from."""


def given_image(value: object, limits: ImageLimits, *, read_paths: bool) -> bytes | Image.Image:
    """The file bytes of an image that a caller passed in or, for a decoded image, its upright RGB pixels.

    Args:
        value: bytes (of a file, or of base64 text), base64 text, a data: URL, a path, a URL, or a PIL image.
        limits: limits on bytes and pixels, and which web addresses may be requested.
        read_paths: whether text may name a file or URL; False if strangers send it. `Path` objects can only come
            from programs and are always read.

    Raises:
        ImageError: the file does not exist, or the text is empty.
        GivenTypeError: unsupported type.
    """
    match value:
        case bytes() | bytearray() | memoryview():
            data = bytes(value)
            # The alphabet of `base64.b64encode`. No image file consists of these characters alone.
            text = data.decode() if _BASE64.fullmatch(data) else ""
            return (_from_base64(text, limits) if len(text) >= _SHORTEST_FILE else None) or data
        case Image.Image():
            return opened_image(value, limits)
        case Path():
            return read_image_bytes(str(value), limits)
        case str():
            return _from_text(value.strip(), limits, read_paths)
        case {"b64": str(text)} if len(value) == 1:  # type: ignore[arg-type]  # TensorFlow Serving's
            return _from_text(text.strip(), limits, read_paths=False)
    raise GivenTypeError(f"an image must be {WANTED}, not {type(value).__name__}")


def _from_text(text: str, limits: ImageLimits, read_paths: bool) -> bytes:
    if head := _DATA_URL.match(text):
        encoded = text[head.end() :]
        data = _from_base64(encoded, limits) if head["base64"] else unquote_to_bytes(encoded)
    elif read_paths and _is_path(text):
        return read_image_bytes(text, limits)
    else:
        data = _from_base64(text, limits)
    if data is None:
        hint = "" if read_paths else "; paths and addresses are not read here"
        raise ImageError(Reason.NOT_AN_IMAGE, f"text that is no base64 of a file: {_beginning(text)}{hint}")
    return data


def _is_path(text: str) -> bool:
    """Whether a text names a file or URL: it is not base64, is too short to be an image, or such a file exists."""
    if len(text) > _LONGEST_PATH or "\n" in text:
        return False
    if len(text) < _SHORTEST_FILE or re.search(r"[^A-Za-z0-9+/=_-]", text):
        return True
    try:
        return storage.local_path(text).is_file()
    except (OSError, ValueError):  # some part is too long for a file name
        return False


def _from_base64(text: str, limits: ImageLimits) -> bytes | None:
    """The bytes of base64 text (either alphabet, line breaks and padding optional); None if it is not base64."""
    if len(text) > 2 * limits.max_bytes:  # four characters encode three bytes
        raise ImageError(Reason.TOO_MANY_BYTES, f"{len(text):,} characters, the limit is {limits.max_bytes:,} bytes")
    bare = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _beginning(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
