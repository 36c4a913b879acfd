"""Training drawings in memory: pixels after a JPEG round trip, looks, species and habitat."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import simplejpeg

from fgvr.demo.samples import JPEG_QUALITY, sample
from fgvr.demo.species import OPTIONS, Attributes

ATTRIBUTE_SIZES: Final = tuple(len(values) for values in OPTIONS.values())
"""How many values each attribute can take, in the order of ``OPTIONS``."""

_GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, fill the unit interval evenly


@dataclass(frozen=True)
class Drawings:
    """N drawings.

    Attributes:
        images: uint8 [N, 64, 64, 3], RGB, as a reader of the JPEG files sees them.
        looks: int64 [N, 22], position of each attribute's value in ``OPTIONS``.
        species: int64 [N], class id; −1 for a bird with random attributes.
        habitat: int64 [N], position in ``HABITATS``.
    """

    images: np.ndarray
    looks: np.ndarray
    species: np.ndarray
    habitat: np.ndarray

    def __len__(self) -> int:
        """Number of drawings."""
        return len(self.species)


def draw_many(
    seed: int, split: str, count: int, *, difficulty: tuple[float, float], random_share: float, start: int = 0
) -> Drawings:
    """Draw ``count`` birds; difficulties are spread evenly over the range, a share has random attributes."""
    images = np.empty((count, 64, 64, 3), np.uint8)
    looks = np.empty((count, len(OPTIONS)), np.int64)
    species, habitat = np.empty(count, np.int64), np.empty(count, np.int64)
    low, high = difficulty
    for row in range(count):
        index = start + row
        kind = "random" if (index * 2 * _GOLDEN) % 1 < random_share else "species"
        level = low + (high - low) * ((index * _GOLDEN) % 1)
        drawn = sample(seed, split, index, difficulty=level, kind=kind)  # type: ignore[arg-type]
        images[row] = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(drawn.image, quality=JPEG_QUALITY))
        looks[row] = looks_of(drawn.attributes)
        species[row] = -1 if drawn.class_id is None else drawn.class_id
        habitat[row] = drawn.scene.habitat
    return Drawings(images, looks, species, habitat)


def looks_of(attributes: Attributes) -> np.ndarray:
    """A bird as positions of its values in ``OPTIONS``: int64 [22]."""
    return np.array([values.index(getattr(attributes, name)) for name, values in OPTIONS.items()])
