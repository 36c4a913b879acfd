"""Mixup and CutMix: the images of a step are mixed in pairs, by one share per step.

Mixup (Zhang et al., ICLR 2018) blends two images, CutMix (Yun et al., ICCV 2019) puts a rectangle of one into the
other; targets are mixed by the same share. As in timm (`timm.data.Mixup`, mode "batch"), image i of a step of B is
mixed with image B − 1 − i, and CutMix's share is that of the pixels that stay, since a rectangle may reach over the
border. Pairs belong to the step and not to a worker's share of it, so that several workers learn what one would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""Top, bottom, left, right in pixels; bottom and right excluded."""
SWITCH = 0.5
"""How often CutMix is drawn where both are on (timm's `switch_prob`)."""


@dataclass(frozen=True)
class Mix:
    """How the images of one step are mixed.

    Attributes:
        share: the share of an image itself, the rest being its partner's.
        box: what comes from the partner; None: the two are blended.
    """

    share: float
    box: Box | None = None

    def mixed(self, images: Pixels, partners: Pixels) -> Pixels:
        """Images uint8 [n, S, S, 3] with their partners of the same shape; blended pixels are rounded."""
        if self.box is None:
            flat = (each.reshape(len(each), -1) for each in (images, partners))
            blended = cv2.addWeighted(next(flat), self.share, next(flat), 1 - self.share, 0)
            return np.asarray(blended, dtype=np.uint8).reshape(images.shape)
        top, bottom, left, right = self.box
        result = images.copy()
        result[:, top:bottom, left:right] = partners[:, top:bottom, left:right]
        return result


@dataclass(frozen=True)
class Mixing:
    """Settings: α of the two; at least one is above 0."""

    mixup: float
    cutmix: float

    def draw(self, random: np.random.Generator, side: int) -> Mix:
        """How a step's images of `side` pixels are mixed."""
        cuts = self.cutmix > 0 and (self.mixup <= 0 or bool(random.random() < SWITCH))
        alpha = self.cutmix if cuts else self.mixup
        share = float(random.beta(alpha, alpha))
        if not cuts:
            return Mix(share)
        row, column = (int(each) for each in random.integers(0, side, 2))
        return cut(share, side, row, column)


def cut(share: float, side: int, row: int, column: int) -> Mix:
    """CutMix with a square of (1 − share) of the area around a pixel, cut off at the image's border."""
    length = int(side * np.sqrt(1 - share))
    places: list[Any] = []
    for middle in (row, column):
        places += [max(middle - length // 2, 0), min(middle + (length + 1) // 2, side)]
    top, bottom, left, right = places
    return Mix(1 - (bottom - top) * (right - left) / side**2, (top, bottom, left, right))
