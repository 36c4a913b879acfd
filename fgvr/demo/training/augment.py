"""Augmentation of training drawings: mirror images and small shifts."""

import numpy as np
import torch
from torch import Tensor


def flip_some(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror a random half and shift all by up to 3 px (edges repeated): uint8 [N, 64, 64, 3]."""
    flipped = torch.from_numpy(rng.random(len(images)) < 0.5)
    images = torch.where(flipped[:, None, None, None], images.flip(2), images)
    dy, dx = rng.integers(-3, 4, 2)
    rows = (torch.arange(64) + int(dy)).clamp(0, 63)
    columns = (torch.arange(64) + int(dx)).clamp(0, 63)
    return images[:, rows][:, :, columns]
