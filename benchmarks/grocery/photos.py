"""The Grocery Store photos in memory, and their augmentation, for training the benchmark's two tiny models."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.harness import DATA
from fgvr.config.data import LayoutSource
from fgvr.sources.source import read_source

SIZE: Final = 64
"""Side of the models' input, in pixels."""
STORED: Final = 96
"""Side of the images kept in memory, larger than the input because crops are cut from them."""


@dataclass(frozen=True)
class Photos:
    """N photos and their classes.

    Attributes:
        images: uint8 [N, STORED, STORED, 3], RGB.
        classes: int64 [N], class id, a position in `names`.
        names: fine class names by id.
        coarse: int64 [C], the coarse class of each fine one.
        coarse_names: names of the coarse classes.
        departments: for each fine class fruit, packages or vegetables.
    """

    images: np.ndarray
    classes: np.ndarray
    names: tuple[str, ...]
    coarse: np.ndarray
    coarse_names: tuple[str, ...]
    departments: tuple[str, ...]

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.classes)

    def take(self, rows: np.ndarray) -> Photos:
        """Some of the photos."""
        return Photos(
            self.images[rows], self.classes[rows], self.names, self.coarse, self.coarse_names, self.departments
        )


def data_folder() -> Path:
    """The folder of the data set: `$FGVR_DATA/grocery-store`, or ../shared/data/grocery-store beside the checkout."""
    return DATA / "grocery-store"


def load_photos(folder: Path, splits: tuple[str, ...]) -> Photos:
    """Read the photos of some splits, squeezed to squares as the tiny MLLM's processor does."""
    images, classes = [], []
    names: dict[int, str] = {}
    coarse: dict[int, str] = {}
    departments: dict[int, str] = {}
    for row in read_source(LayoutSource(name="grocery", path=str(folder)), "").rows.to_pylist():
        names[row["class_id"]] = row["class_name"]
        coarse[row["class_id"]] = json.loads(row["metadata"])["coarse"]
        departments[row["class_id"]] = row["uri"].split(f"/{row['split']}/", 1)[1].split("/", 1)[0].lower()
        if row["split"] in splits:
            with Image.open(row["uri"]) as photo:
                square = photo.convert("RGB").resize((STORED, STORED), Image.Resampling.BICUBIC)
            images.append(np.asarray(square))
            classes.append(row["class_id"])
    order = sorted(names)
    groups = sorted(set(coarse.values()))
    return Photos(
        images=np.stack(images),
        classes=np.array(classes, np.int64),
        names=tuple(names[i] for i in order),
        coarse=np.array([groups.index(coarse[i]) for i in order]),
        coarse_names=tuple(groups),
        departments=tuple(departments[i] for i in order),
    )


def augment(images: Tensor, rng: np.random.Generator, *, smallest: float = 0.45) -> Tensor:
    """Random crops, flips, rotations, light, a little colour: uint8 [N, S, S, 3] to float [N, 3, SIZE, SIZE], 0–1.

    Hue is kept, because it distinguishes one apple from another.

    Args:
        images: stored photos.
        rng: decides all.
        smallest: side of the smallest crop as a share of the photo's.
    """
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, count).astype(np.float32))

    scale, stretch, turn = uniform(smallest, 1.0), uniform(-0.2, 0.2).exp(), uniform(-0.3, 0.3)
    mirror = torch.from_numpy(np.where(rng.random(count) < 0.5, -1.0, 1.0).astype(np.float32))
    across, down = scale * stretch, scale / stretch
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = across * turn.cos() * mirror, -across * turn.sin()
    theta[:, 1, 0], theta[:, 1, 1] = down * turn.sin() * mirror, down * turn.cos()
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-1, 1) * (1 - scale), uniform(-1, 1) * (1 - scale)
    grid = torch.nn.functional.affine_grid(theta, [count, 3, SIZE, SIZE], align_corners=False)
    pixels = images.permute(0, 3, 1, 2).float() / 255
    crops = torch.nn.functional.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    mean = crops.mean(dim=(1, 2, 3), keepdim=True)
    contrast, light = (uniform(0.7, 1.3)[:, None, None, None] for _ in range(2))
    tint = torch.from_numpy(rng.uniform(0.93, 1.07, (count, 3, 1, 1)).astype(np.float32))
    return (((crops - mean) * contrast + mean) * light * tint).clamp(0, 1)


def plain(images: Tensor) -> Tensor:
    """The whole photos as the models see them: float [N, 3, SIZE, SIZE], 0–1."""
    pixels = images.permute(0, 3, 1, 2).float() / 255
    return torch.nn.functional.interpolate(pixels, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)


def normalised(pixels: Tensor) -> Tensor:
    """Both models' normalisation of 0–1 pixels: mean 0.5, standard deviation 0.25."""
    return (pixels - 0.5) / 0.25
