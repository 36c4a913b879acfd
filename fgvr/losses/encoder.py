"""What an encoder learns from another one: directions of vectors, of feature maps, and of masked patches.

Proteus (Zhang et al., "Accessing Vision Foundation Models at ImageNet-level Costs", ICLR 2025; the facts of its public
code) adds three mean squared errors of equal weights: of the class token, of all tokens, and of patches that are masked
in half of the images, half of the patches each. Here the compared vectors have unit length, as stored ones do. A
squared distance is then 2 − 2 cos whatever the width and the scale of the two networks, so that equal weights mean the
same for every teacher; the mean over d numbers, which a mean squared error is, would be 1/d of it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional

MASKED_IMAGES, MASKED_PATCHES = 0.5, 0.5
"""Shares of a step's images that are masked, and of the patches of such an image."""

Masks = npt.NDArray[np.bool_]


def unit_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of two vectors of unit length, 2 − 2 cos: float32 [...] in 0 … 4.

    A vector of zeros has no direction and stays zeros: its distance to any other is 1.

    Args:
        student: float [..., d], of any length.
        teacher: likewise, of the same shape.

    Raises:
        ValueError: the shapes differ; nothing is broadcast.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"vectors of shapes {tuple(student.shape)} and {tuple(teacher.shape)} cannot be compared")
    # In fp32: under autocast the differences of nearly equal vectors would vanish.
    first, second = functional.normalize(student.float(), dim=-1), functional.normalize(teacher.float(), dim=-1)
    return (first - second).square().sum(dim=-1)


def at_grid(features: Tensor, height: int, width: int) -> Tensor:
    """A feature map [N, h, w, C] at another grid: float32 [N, height, width, C].

    Bilinear; where the grid becomes coarser, each cell is a weighted mean over all of its area. The same grid is left
    as it is.
    """
    if features.shape[1:3] == (height, width):
        return features.float()
    first = features.float().movedim(-1, 1)
    shrinks = height < features.shape[1] or width < features.shape[2]
    resized = functional.interpolate(first, (height, width), mode="bilinear", antialias=shrinks, align_corners=False)
    return resized.movedim(1, -1)


def grid_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of `unit_distance` over the teacher's grid: float32 [N].

    Args:
        student: float [N, h, w, C], at any grid.
        teacher: float [N, H, W, C].
    """
    return unit_distance(at_grid(student, *teacher.shape[1:3]), teacher).mean(dim=(1, 2))


def masked_distance(student: Tensor, teacher: Tensor, masks: Tensor) -> Tensor:
    """Mean of `unit_distance` over the masked cells of the teacher's grid: float32 [N]; 0 for an image without a mask.

    Where the grids differ, a cell counts by the share of it that is masked.

    Args:
        student: float [N, h, w, C], at the student's grid.
        teacher: float [N, H, W, C].
        masks: bool [N, h, w], at the student's grid.
    """
    height, width = teacher.shape[1:3]
    shares = at_grid(masks[..., None].float(), height, width)[..., 0]
    distances = unit_distance(at_grid(student, height, width), teacher)
    return (shares * distances).sum(dim=(1, 2)) / shares.sum(dim=(1, 2)).clamp(min=1e-6)


def masked_images(images: int) -> int:
    """How many images of a step are masked."""
    return math.floor(images * MASKED_IMAGES)


def draw_masks(images: int, grid: tuple[int, int], stream: tuple[int, ...]) -> tuple[npt.NDArray[np.int64], Masks]:
    """Which images of a step are masked, ascending int64 [m], and which of their patches, bool [m, h, w].

    m is half of the images and each mask half of the patches, rounded down; the patches of an image are drawn uniformly
    and without repetition.

    Args:
        images: number of images of the step, over all workers.
        grid: rows and columns of patches.
        stream: seeds that determine the draw.
    """
    random = np.random.default_rng(stream)
    chosen = np.sort(random.permutation(images)[: masked_images(images)])
    patches = grid[0] * grid[1]
    order = random.random((len(chosen), patches)).argsort(axis=1)
    masks = order < math.floor(patches * MASKED_PATCHES)
    return chosen, masks.reshape(len(chosen), *grid)
