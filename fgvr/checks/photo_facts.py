"""Numbers about one photo that need no model: its size, brightness, contrast and sharpness, and two hashes.

Sharpness is the variance of the Laplacian (Pech-Pacheco et al., ICPR 2000). The perceptual hash is the sign of the 63
lowest frequencies of a discrete cosine transform against their median (pHash: Zauner 2010): it survives other sizes,
compression and small changes of light.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgvr import schemas
from fgvr.config.data import ImageLimits
from fgvr.images.read import ImageError, decode_pixels, read_image_bytes, upright_size
from fgvr.prefetch import read_ahead

SIDE: Final = 256
"""Shorter side, pixels, at which brightness, contrast and sharpness are measured: photos of any size compare."""
DIGEST_BYTES: Final = 16
GRID: Final = 4
"""Fields of the grid of colours per side."""
_HASHED: Final = 32
_FREQUENCIES: Final = 8

Luma = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PhotoFacts:
    """What is measured of a photo.

    Attributes:
        width, height: upright, pixels.
        file_bytes: length of the file.
        brightness: mean luma, 0 to 255.
        contrast: standard deviation of the luma.
        sharpness: variance of the luma's Laplacian.
        digest: of the file: equal for exact copies.
        look: perceptual hash, 64 bits as a signed number.
        colours: CIELAB (L, a, b) of the fields of a grid, a byte each.
    """

    width: int
    height: int
    file_bytes: int
    brightness: float
    contrast: float
    sharpness: float
    digest: bytes
    look: int
    colours: bytes


def photo_facts(data: bytes, limits: ImageLimits) -> PhotoFacts:
    """Measure an image file; raises ImageError for one that cannot be read."""
    pixels = decode_pixels(data, limits, short_side=SIDE)
    width, height = upright_size(data)
    luma = shrunk(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    return PhotoFacts(
        width,
        height,
        len(data),
        float(luma.mean()),
        float(luma.std()),
        sharpness(luma),
        hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest(),
        look(luma),
        colours(pixels),
    )


def shrunk(luma: Luma) -> Luma:
    """The luma with a shorter side of at most `SIDE`; smaller photos stay as they are."""
    height, width = luma.shape
    factor = SIDE / min(height, width)
    if factor >= 1:
        return luma
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.uint8)


def sharpness(luma: Luma) -> float:
    """Variance of the Laplacian, kernel [[0, 1, 0], [1, −4, 1], [0, 1, 0]], of uint8 [H, W]; 0 for a plain surface."""
    return float(cv2.Laplacian(luma, cv2.CV_64F, ksize=1).var())


def look(luma: Luma) -> int:
    """The perceptual hash of uint8 [H, W], as a signed 64-bit number; the mean brightness has no part in it."""
    small = cv2.resize(luma, (_HASHED, _HASHED), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:_FREQUENCIES, :_FREQUENCIES].flatten()
    low[0] = 0.0
    bits = low > np.median(low[1:])
    return int(np.packbits(bits).view(">i8")[0])


def colours(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Mean colours of a grid, of uint8 [H, W, 3] in RGB: L, a and b of CIELAB by field, 48 bytes."""
    small = cv2.resize(pixels, (8 * GRID, 8 * GRID), interpolation=cv2.INTER_AREA)
    fields = cv2.resize(cv2.cvtColor(small, cv2.COLOR_RGB2LAB), (GRID, GRID), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(fields).tobytes()


class CheckWorker:
    """The PartWorker of check. A photo that cannot be read is a finding, and no failed row: that is what is checked."""

    def __init__(self, limits: ImageLimits, threads: int) -> None:
        self.limits, self.threads = limits, threads

    def process(self, rows: pa.Table) -> pa.Table:
        """One row of PHOTO_CHECKS per photo."""
        found = read_ahead(self._row, rows["uri"].to_pylist(), threads=self.threads)
        table = [{"image_id": image, **row} for image, row in zip(rows["image_id"].to_pylist(), found, strict=True)]
        return pa.Table.from_pylist(table, schema=schemas.PHOTO_CHECKS)

    def _row(self, uri: str) -> Mapping[str, Any]:
        try:
            return vars(photo_facts(read_image_bytes(uri, self.limits), self.limits))
        except ImageError as error:
            return {"unreadable": error.failure.as_row()}
