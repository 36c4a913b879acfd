"""Reading one image: untrusted bytes become RGB pixels, or an `ImageError` that says why not.

Every file ends in one of these two ways, and none can crash the process: limits are checked before bytes are read and
before pixels are decoded, and only formats are tried that Pillow decodes itself (no Ghostscript), plus HEIC by
pillow-heif if that is installed.
"""

from __future__ import annotations

import io
import math
import stat
from contextlib import suppress
from typing import Final

import fsspec
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from fgvr import liveness, storage, store_waits
from fgvr.config.data import ImageLimits
from fgvr.images.coded_sizes import CodedError
from fgvr.images.formats import FORMATS, formats, heif_brand, known_start, unread_tiff, what_it_is
from fgvr.images.headers import FRAMES, JPEG2000, excess, stated_sizes
from fgvr.images.heif import Cost, cost_of
from fgvr.images.inside import InsideError, read_inside
from fgvr.images.lookalikes import hint, key_lookalikes, local_lookalike
from fgvr.images.pixels import orientation, to_rgb, upright
from fgvr.images.places import is_inside
from fgvr.images.system_places import leads_to_system
from fgvr.images.tiff import TIFF
from fgvr.images.web import HttpFailure, read_url
from fgvr.images.web_addresses import NotAllowed, shown
from fgvr.schemas import Failure, Reason

PIXELS = 1
"""Version of the decoding. Increase it when the same file would give other pixels: it is part of the fingerprints
of all tables that were computed from images (cluster/stage.py)."""

__all__ = ["FORMATS", "ImageError", "decode_image", "read_image", "read_image_bytes", "upright_size"]

_SIGNATURES: Final = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", *TIFF, *JPEG2000)
_END_OF_JPEG: Final = b"\xff\xd9"
TURNED: Final = frozenset({5, 6, 7, 8})
"""Orientations of EXIF in which width and height change places."""
MAX_CODED: Final = 4
"""How many times `max_pixels` the coded pictures of an AVIF or HEIF file may have: its alpha and gain map count, too,
and what of a grid's tiles is cut off."""
MAX_SIDE_RATIO: Final = 200
"""A strip of 1 × 50,000 pixels is small, but resized to a short side of 224 it would have 2.5 billion pixels."""


class ImageError(Exception):
    """An image that cannot be read; `failure` is the value of the row's `error` column."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    @property
    def failure(self) -> Failure:
        """The value of the row's `error` column."""
        return Failure(self.reason, self.detail)

    def __reduce__(self) -> tuple[type[ImageError], tuple[Reason, str]]:
        return ImageError, (self.reason, self.detail)  # exceptions with two arguments cannot be unpickled by default


def read_image(uri: str, limits: ImageLimits, *, short_side: int | None = None) -> Image.Image:
    """The image at a URI, as `decode_image` gives it; raises ImageError."""
    with liveness.doing(f"the image {shown(uri)}"):
        return decode_image(read_image_bytes(uri, limits), limits, short_side=short_side)


def read_image_bytes(uri: str, limits: ImageLimits) -> bytes:
    """The file at a URI: a path (taken literally), `file://` (percent-encoded), `s3://` and other object stores,
    http(s) under `limits.web`, and images inside container files (`fgvr.images.places`).

    Never reads more than `limits.max_bytes` + 1 bytes.

    Raises:
        ImageError: NOT_FOUND, UNREADABLE (network, permission, a folder, a device), NOT_ALLOWED, EMPTY_FILE or
            TOO_MANY_BYTES.
    """
    if (place := uri.find("data:image/")) >= 0 and ";base64," in uri[place : place + 100]:
        detail = f"{uri[:60]}…: an image inside its own address (data:) is not read; write it into a file"
        raise ImageError(Reason.NOT_ALLOWED, detail)
    try:
        with liveness.doing(f"reading {shown(uri)}"):
            data = _read_local(uri, limits) if storage.is_local(uri) else _read_remote(uri, limits)
    except ImageError:
        raise
    except FileNotFoundError as error:
        said = f"there is nothing at {shown(uri)}{hint(uri)}"
        raise ImageError(Reason.NOT_FOUND, said) from error
    except Exception as error:  # every protocol has its own errors; whatever it is, only the row fails
        raise ImageError(Reason.UNREADABLE, f"{shown(uri)}: {type(error).__name__}: {error}") from error
    if len(data) > limits.max_bytes:
        raise ImageError(Reason.TOO_MANY_BYTES, f"{shown(uri)} has more than {limits.max_bytes:,} bytes")
    if not data:
        raise ImageError(Reason.EMPTY_FILE, f"{shown(uri)} has no bytes")
    return data


def _read_local(uri: str, limits: ImageLimits) -> bytes:
    path = storage.local_path(uri)
    try:
        facts = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        other = local_lookalike(uri)
        if other is None:
            raise FileNotFoundError(uri) from None
        path, facts = other, other.stat()
    if leads_to_system(path, limits.allowed_roots):
        said = "a link to a file of the system, or to where keys are kept, unless ingest.limits.allowed_roots names it"
        raise ImageError(Reason.NOT_ALLOWED, f"{uri} is {said}")
    if stat.S_ISREG(facts.st_mode) and facts.st_size > limits.max_bytes:
        raise ImageError(Reason.TOO_MANY_BYTES, f"{uri} has {facts.st_size:,} bytes, the limit is {limits.max_bytes:,}")
    try:
        with io.BufferedReader(storage.open_regular(path)) as file:  # type: ignore[type-var]  # an io.FileIO
            data = file.read(facts.st_size + 1)  # not `max_bytes`, which would be allocated for each photo
            if len(data) > facts.st_size:  # it grew meanwhile
                data += file.read(limits.max_bytes + 1 - len(data))
    except storage.NotRegular as error:
        raise ImageError(Reason.UNREADABLE, str(error)) from error
    return data


def _read_remote(uri: str, limits: ImageLimits) -> bytes:
    if uri.lower().startswith(("http://", "https://")):
        return _read_web(uri, limits)
    with store_waits.within(limits.web.total_seconds):  # a single image may fail
        return _read_inside(uri, limits) if is_inside(uri) else _read_key(uri, limits)


def _read_key(uri: str, limits: ImageLimits) -> bytes:
    if not storage.is_object_store(uri):  # untrusted URIs could name any host by any protocol of fsspec
        known = ", ".join(sorted(storage.OBJECT_STORES))
        raise ImageError(Reason.NOT_ALLOWED, f"{shown(uri)}: images are read from disks, http(s), and {known}")
    fs, path = storage.resolve(uri)
    try:
        return _read_object(fs, path, limits)
    except FileNotFoundError:
        bucket, slash, key = path.partition("/")
        for other in key_lookalikes(key):
            with suppress(FileNotFoundError):
                return _read_object(fs, f"{bucket}{slash}{other}", limits)
        raise


def _read_object(fs: fsspec.AbstractFileSystem, path: str, limits: ImageLimits) -> bytes:
    try:
        # A size check first would cost a second request.
        return bytes(fs.cat_file(path, start=0, end=limits.max_bytes + 1))
    except (FileNotFoundError, store_waits.TooSlow):
        raise
    except OSError as error:
        if "InvalidRange" in str(error) or "range" in str(error).lower():  # S3's error for an empty object
            return b""
        raise


def _read_web(uri: str, limits: ImageLimits) -> bytes:
    try:
        return read_url(uri, limits.max_bytes, limits.web)
    except NotAllowed as error:
        raise ImageError(Reason.NOT_ALLOWED, f"{shown(uri)}: {error}") from error
    except HttpFailure as error:
        reason = Reason.NOT_FOUND if error.status in {404, 410} else Reason.UNREADABLE
        raise ImageError(reason, f"{shown(uri)}: {error}") from error


def _read_inside(uri: str, limits: ImageLimits) -> bytes:
    try:
        return read_inside(uri, limits.max_bytes)
    except InsideError as error:
        raise ImageError(error.reason, f"{uri}: {error}") from error


def decode_image(data: bytes, limits: ImageLimits, *, short_side: int | None = None) -> Image.Image:
    """The first frame as upright RGB, without `limits.cut_bottom` rows; transparency over white, 16-bit values scaled.

    If an animation begins with fully transparent frames, the first frame that shows anything.

    Args:
        data: a whole image file.
        limits: the pixel limit is checked against the header, before decoding.
        short_side: pixels that the shorter side needs at least; a JPEG is then decoded at a fraction of its size
            (simplejpeg's scaled DCT), which is several times faster. Other formats are decoded at full size.

    Raises:
        ImageError: EMPTY_FILE, NOT_AN_IMAGE, TOO_MANY_BYTES, TOO_MANY_PIXELS or CORRUPT.
    """
    image = _decoded(data, limits, short_side)
    return image if isinstance(image, Image.Image) else Image.fromarray(image)


def decode_pixels(data: bytes, limits: ImageLimits, *, short_side: int | None = None) -> npt.NDArray[np.uint8]:
    """The same as a uint8 array [H, W, 3], without the copies that a Pillow image would cost."""
    return np.asarray(_decoded(data, limits, short_side))


def upright_size(data: bytes) -> tuple[int, int]:
    """Width and height of an image file that was decoded before, so that its header is known to be harmless."""
    with Image.open(io.BytesIO(data), formats=formats()) as image:
        width, height = image.size
        return (height, width) if orientation(image) in TURNED else (width, height)


def _decoded(data: bytes, limits: ImageLimits, short_side: int | None) -> Image.Image | npt.NDArray[np.uint8]:
    """The image in the type that the decoder returns."""
    if not data:
        raise ImageError(Reason.EMPTY_FILE, "no bytes")
    if len(data) > limits.max_bytes:
        raise ImageError(Reason.TOO_MANY_BYTES, f"{len(data):,} bytes, the limit is {limits.max_bytes:,}")
    _check_header(data, limits)
    try:
        with Image.open(io.BytesIO(data), formats=formats()) as image:
            _check_size(image.size, limits)
            return _loaded(image, data, limits, short_side)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except Image.DecompressionBombError as error:
        raise ImageError(Reason.TOO_MANY_PIXELS, str(error)) from error
    except Exception as error:  # on damaged files, decoders raise anything from SyntaxError to IndexError
        whole = _with_its_end(data)
        if whole is not None:
            return _decoded(whole, limits, short_side)
        raise ImageError(Reason.CORRUPT, f"{type(error).__name__}: {error}") from error


def _loaded(
    image: Image.Image, data: bytes, limits: ImageLimits, short_side: int | None
) -> Image.Image | npt.NDArray[np.uint8]:
    """The pixels of an opened image whose header was checked."""
    if short_side is not None and image.format in {"JPEG", "MPO"} and image.mode in {"RGB", "L"}:
        scaled = _scaled_jpeg(data, short_side + limits.cut_bottom)  # enough, whichever side is the shorter one
        if scaled is not None:
            turned = orientation(image)
            if turned == 1 and not limits.cut_bottom:
                return scaled
            shrunk = max(image.size) / max(scaled.shape[:2])
            return _without_bottom(upright(Image.fromarray(scaled), turned), limits.cut_bottom / shrunk)
    _load(image, limits)
    return _without_bottom(upright(to_rgb(image), orientation(image)), limits.cut_bottom)


def opened_image(image: Image.Image, limits: ImageLimits) -> Image.Image:
    """An image that a caller opened or made, converted as by `decode_image`; also raises ImageError."""
    try:
        _check_size(image.size, limits)
        _load(image, limits)
        return _without_bottom(upright(to_rgb(image), orientation(image)), limits.cut_bottom)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # a lazily opened file may turn out damaged
        raise ImageError(Reason.CORRUPT, f"{type(error).__name__}: {error}") from error


def _load(image: Image.Image, limits: ImageLimits) -> None:
    """Decode the first frame that is not fully transparent."""
    image.load()
    _check_size(image.size, limits)  # libheif may change the size while decoding
    if not (getattr(image, "is_animated", False) and _is_empty(image)):
        return
    # Each frame costs as much as the whole canvas, so for a huge one only the first two are tried.
    canvas = image.width * image.height
    with suppress(EOFError):
        for frame in range(1, min(FRAMES, max(2, limits.max_pixels // canvas))):
            image.seek(frame)
            _check_size(image.size, limits)  # each page of a TIFF has its own size
            image.load()
            if not _is_empty(image):
                return
    image.seek(0)
    image.load()


def _is_empty(image: Image.Image) -> bool:
    """Whether a loaded frame is fully transparent."""
    return image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[1] == 0


def _with_its_end(data: bytes) -> bytes | None:
    """A JPEG that lacks only its end marker (some cameras omit it), with the marker added; None for any other file."""
    if not data.startswith(b"\xff\xd8\xff") or data.endswith(_END_OF_JPEG):
        return None
    whole = data.removesuffix(b"\xff") + _END_OF_JPEG
    try:
        simplejpeg.decode_jpeg(whole, "RGB")  # strict: raises if pixels are missing
    except ValueError:
        return None
    return whole


def _unidentified(data: bytes) -> ImageError:
    """The error for a file of which Pillow says only that it cannot identify it."""
    if known_start(data) is not None:
        return ImageError(Reason.NOT_AN_IMAGE, what_it_is(data))
    kept = unread_tiff(data) if data.startswith(tuple(TIFF)) else None
    if kept is not None:
        return ImageError(Reason.NOT_AN_IMAGE, f"a TIFF of a kind that Pillow does not read: {kept}")
    if data.startswith(_SIGNATURES) or (data.startswith(b"RIFF") and data[8:12] == b"WEBP"):
        return ImageError(Reason.CORRUPT, "a damaged header")
    return ImageError(Reason.CORRUPT if heif_brand(data) in formats() else Reason.NOT_AN_IMAGE, what_it_is(data))


def _check_header(data: bytes, limits: ImageLimits) -> None:
    """Raises ImageError for header claims for which a decoder would need too much memory or time."""
    said = excess(data)
    if said is not None:
        raise ImageError(Reason.CORRUPT, f"more than a header needs: {said}")
    try:
        coded = cost_of(data) or Cost()
    except CodedError as error:
        raise ImageError(Reason.CORRUPT, f"{heif_brand(data)}, with {error}") from error
    for width, height in (*stated_sizes(data), *coded.sizes):
        if width * height > limits.max_pixels:
            raise ImageError(
                Reason.TOO_MANY_PIXELS,
                f"{width} × {height} pixels in a frame, icon or tile of it, the limit is {limits.max_pixels:,} in all",
            )
    if coded.pixels > MAX_CODED * limits.max_pixels:
        raise ImageError(
            Reason.TOO_MANY_PIXELS,
            f"its tiles have {coded.pixels:,} pixels, the limit is {MAX_CODED} times {limits.max_pixels:,}",
        )


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise ImageError(
            Reason.TOO_MANY_PIXELS, f"{width} × {height} pixels, the limit is {limits.max_pixels:,} in all"
        )
    if max(size) > MAX_SIDE_RATIO * min(size):
        raise ImageError(
            Reason.TOO_MANY_PIXELS,
            f"{width} × {height} pixels: a strip thinner than 1:{MAX_SIDE_RATIO} grows without bound when resized",
        )


def _without_bottom(image: Image.Image, rows: float) -> Image.Image:
    """The image without its last rows; a fraction of a row is cut as a whole row, so that no banner remains."""
    height = image.height - math.ceil(rows)
    if height < 1:
        raise ImageError(
            Reason.CORRUPT, f"{image.height} rows of pixels, ingest.limits.cut_bottom takes {math.ceil(rows)}"
        )
    return image.crop((0, 0, image.width, height)) if rows else image


def _scaled_jpeg(data: bytes, short_side: int) -> npt.NDArray[np.uint8] | None:
    """The JPEG decoded at the smallest n/8, n ≤ 4, with sides ≥ `short_side`, or in full; None: leave it to Pillow."""
    try:
        # A reduction below 2 costs more than it saves, and blurs: then the image is decoded at full size.
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, "RGB", min_height=short_side, min_width=short_side, min_factor=2
        )
    except ValueError:  # a warning or error: Pillow decides whether it is tolerable
        return None
    return pixels
