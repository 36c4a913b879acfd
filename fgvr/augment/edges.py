"""The edges of a photo, which a ControlNet follows, so that a generated picture keeps the shape of what is shown."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

LOW, HIGH = 120, 200
"""Canny's thresholds on the gradient of 8-bit pixels (SaSPA; those of ControlNet's own examples are 100 and 200)."""
SIDES: Final = 64
"""Sides are multiples of this: the latents of SD 1.5 are 1/8 of the pixels, and its U-Net halves them three times."""
LONGEST: Final = 2
"""Longest side of a picture in units of the shorter one; a longer photo loses its ends."""


def fitted(image: Image.Image, size: int, *, square: bool = False) -> Image.Image:
    """The middle of an RGB photo at the size of the picture to be made.

    Args:
        image: any size.
        size: the picture's shorter side, a multiple of `SIDES`.
        square: both sides are `size`; else the longer one keeps the photo's shape, rounded to `SIDES`.
    """
    shape = 1.0 if square else min(LONGEST, max(image.size) / min(image.size))
    long = SIDES * round(size * shape / SIDES)
    width, height = (long, size) if image.width >= image.height else (size, long)
    scale = max(width / image.width, height / image.height)
    cut = width / scale, height / scale
    left, top = (image.width - cut[0]) / 2, (image.height - cut[1]) / 2
    box = (left, top, left + cut[0], top + cut[1])
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box)


def canny(pixels: Pixels) -> Pixels:
    """White edges on black, uint8 [H, W, 3], of an RGB image of the same shape.

    As ControlNet's annotator, the detector sees the colours, and takes the channel with the strongest gradient.
    """
    edges = cv2.Canny(np.ascontiguousarray(pixels), LOW, HIGH)
    return np.repeat(edges[:, :, None], 3, axis=2).astype(np.uint8)
