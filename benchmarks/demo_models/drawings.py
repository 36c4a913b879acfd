"""Training drawings in memory: pixels after a JPEG round trip, looks, species, habitat; and heads for looks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import simplejpeg
import torch
from torch import Tensor, nn

from fgvr.demo.captions import looks_of
from fgvr.demo.samples import DEMO_DIFFICULTY, JPEG_QUALITY, sample
from fgvr.demo.species import OPTIONS

ATTRIBUTE_SIZES: Final = tuple(len(values) for values in OPTIONS.values())
"""The number of values of each attribute, in the order of ``OPTIONS``."""

DIFFICULTY: Final = (0.5, 1.5)
"""Range of the difficulties at which all shipped models are trained."""

_GOLDEN = 0.6180339887498949  # its multiples modulo 1 fill the unit interval evenly


@dataclass(frozen=True)
class Drawings:
    """A set of N drawings.

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


def write_birds(folder: Path, count: int) -> list[str]:
    """Write drawings of the demo's difficulty as JPEG files of 64 px; returns their paths in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(sample(0, "train", number, difficulty=DEMO_DIFFICULTY).jpeg())
    return [str(path) for path in paths]


def flip_some(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror a random half and shift all by up to 3 px (edges repeated): uint8 [N, 64, 64, 3]."""
    flipped = torch.from_numpy(rng.random(len(images)) < 0.5)
    images = torch.where(flipped[:, None, None, None], images.flip(2), images)
    dy, dx = rng.integers(-3, 4, 2)
    rows = (torch.arange(64) + int(dy)).clamp(0, 63)
    columns = (torch.arange(64) + int(dx)).clamp(0, 63)
    return images[:, rows][:, :, columns]


class AttributeHeads(nn.Module):
    """Predicts all 22 attributes from one feature vector; thrown away after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, sum(ATTRIBUTE_SIZES))

    def loss(self, features: Tensor, looks: Tensor) -> Tensor:
        """Mean cross-entropy over attributes: features [N, D], looks int [N, 22]."""
        logits = self.linear(features).float().split(ATTRIBUTE_SIZES, dim=1)
        losses = [nn.functional.cross_entropy(part, looks[:, i]) for i, part in enumerate(logits)]
        return torch.stack(losses).mean()

    def right(self, features: Tensor, looks: Tensor) -> Tensor:
        """Share of right predictions by attribute: float [22]."""
        logits = self.linear(features).float().split(ATTRIBUTE_SIZES, dim=1)
        return torch.stack([(part.argmax(1) == looks[:, i]).float().mean() for i, part in enumerate(logits)])
