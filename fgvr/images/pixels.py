"""Pixels: converting any Pillow image to upright 8-bit RGB on white, and random crops of it."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from fgvr.images.exif import stated_orientation

_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → the transposition that undoes it (EXIF 2.32, tag 0x0112)."""

TRIES = 10
RATIO = (3 / 4, 4 / 3)
MIN_CROP = 0.08  # smallest share of the image's area, as in CoOp and torchvision


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if missing or damaged."""
    try:
        value = stated_orientation(image)
    except Exception:  # damaged metadata can raise anything; the pixels are still good
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image rotated and mirrored as its EXIF orientation says."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded image as 8-bit RGB: transparency over white; 16-bit and float values scaled instead of clipped.

    Raises:
        ValueError: a mode that Pillow cannot convert (LAB).
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Grey values of more than 8 bits, scaled to 0–255.

    16-bit integers are scaled by their full range. Wider integers and floats have no agreed range: floats within 0–1
    and integers within 16 bits are scaled by that range, others from their minimum to their maximum.
    """
    if values.dtype in (np.uint16, np.dtype(">u2")):
        return (values.astype(np.float32) / 257 + 0.5).astype(np.uint8)
    grey = np.nan_to_num(values.astype(np.float64), nan=0, posinf=0, neginf=0)
    low, high = float(grey.min()), float(grey.max())
    if np.issubdtype(values.dtype, np.floating) and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    elif np.issubdtype(values.dtype, np.integer) and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    return ((grey - low) / max(high - low, 1e-12) * 255 + 0.5).astype(np.uint8)


# Random crops: the boxes for training the student, and the views of an image that prompt learning caches.


def crop_box(height: int, width: int, min_crop: float, draw: npt.NDArray[np.float64]) -> tuple[int, int, int, int]:
    """A random box (top, left, height, width) as torchvision's RandomResizedCrop draws it.

    Area uniform in `min_crop` … 1 of the image's area, aspect ratio log-uniform in 3/4 … 4/3, position uniform.
    After ten failed tries, the largest centre crop with an allowed ratio.

    Args:
        height: height of the image.
        width: width of the image.
        min_crop: smallest share of the image's area.
        draw: numbers uniform in 0 … 1: (area, ratio) for each try, then the position (top, left).
    """
    top, left = draw[2 * TRIES], draw[2 * TRIES + 1]
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for number in range(TRIES):
        area = height * width * (min_crop + (1 - min_crop) * draw[2 * number])
        ratio = math.exp(low + (high - low) * draw[2 * number + 1])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    if width / height < RATIO[0]:
        w, h = width, round(width / RATIO[0])
    elif width / height > RATIO[1]:
        w, h = round(height * RATIO[1]), height
    else:
        w, h = width, height
    w, h = max(1, min(w, width)), max(1, min(h, height))
    return (height - h) // 2, (width - w) // 2, h, w


def random_view(image: Image.Image, size: int, stream: tuple[int, ...], min_crop: float = MIN_CROP) -> Image.Image:
    """A random crop as in CoOp, resized to `size` × `size` pixels (bicubic) and flipped with probability one half.

    Args:
        image: an RGB image.
        size: side of the result in pixels.
        stream: seeds that determine the view, e.g. (seed, image id, number of the view).
        min_crop: smallest share of the image's area.
    """
    draw = np.random.default_rng(stream).random(2 * TRIES + 3)
    top, left, height, width = crop_box(image.height, image.width, min_crop, draw[:-1])
    view = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw[-1] < 0.5 else view
