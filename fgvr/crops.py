"""Random crops: the box that a student's training cuts, and the views of an image that prompt learning caches."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

TRIES = 10
RATIO = (3 / 4, 4 / 3)
MIN_CROP = 0.08  # smallest share of the image's area, as in CoOp and torchvision


def crop_box(height: int, width: int, min_crop: float, draw: npt.NDArray[np.float64]) -> tuple[int, int, int, int]:
    """A random box (top, left, height, width) as torchvision's RandomResizedCrop draws it.

    Area uniform in `min_crop` … 1 of the image's, aspect ratio log-uniform in 3/4 … 4/3, uniform place; ten tries,
    then the largest centre crop of an allowed ratio.

    Args:
        height: of the image.
        width: of the image.
        min_crop: smallest share of the area.
        draw: numbers uniform in 0 … 1: (area, ratio) for each try, then the place (top, left).
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
    """A random crop as CoOp cuts it, resized to `size` × `size` pixels (bicubic), flipped half of the time.

    Args:
        image: RGB.
        size: side of the result, pixels.
        stream: seeds that decide the view, e.g. (seed, image id, number of the view).
        min_crop: smallest share of the image's area.
    """
    draw = np.random.default_rng(stream).random(2 * TRIES + 3)
    top, left, height, width = crop_box(image.height, image.width, min_crop, draw[:-1])
    view = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw[-1] < 0.5 else view
