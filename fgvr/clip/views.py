"""Augmented views of an image for prompt learning, drawn once and kept as features: CoOp's random crop and flip."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fgvr.training.batches import TRIES, crop_box

MIN_CROP = 0.08  # smallest share of the image's area, as in CoOp and torchvision


def random_view(image: Image.Image, size: int, stream: tuple[int, ...], min_crop: float = MIN_CROP) -> Image.Image:
    """A random crop resized to `size` × `size` pixels (bicubic), flipped half of the time.

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
