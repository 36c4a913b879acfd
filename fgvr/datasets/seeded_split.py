"""Training and test images of data sets that have no official split: so many of each class, by a seed."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np


def training_images(images: Sequence[str], per_class: int, seed: int, stream: str) -> set[str]:
    """Those of a class's images that train; the others test.

    Args:
        images: names of the images of one class, in an order that does not depend on the machine.
        per_class: how many train. Of a class with no more images than this, all but one do.
        seed: other seeds draw others.
        stream: names the class. Each has a random stream of its own, so that a class that is missing changes nothing
            for the others; equally long lists of one stream are drawn alike.
    """
    take = min(per_class, max(len(images) - 1, 1))
    order = np.random.default_rng([seed, zlib.crc32(stream.encode())]).permutation(len(images))
    return {images[number] for number in order[:take]}
