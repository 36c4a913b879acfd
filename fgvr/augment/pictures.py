"""What a generator is asked for and what it gives, whatever it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from fgvr.augment.edges import Pixels
from fgvr.augment.filters import Rejection, is_blank


@dataclass(frozen=True)
class Asked:
    """A picture to be made.

    Attributes:
        photo: the source at the picture's size, RGB.
        subject: another photo of the same name; the source itself where there is no other, or nobody looks at it.
        name: what the picture is to show.
        prompt: with the name in it.
        seed: of its noise.
    """

    photo: Image.Image
    subject: Image.Image
    name: str
    prompt: str
    seed: int


@dataclass(frozen=True)
class Made:
    """A generated picture: uint8 [H, W, 3], None without finite pixels; and why it is rejected at once, if it is."""

    pixels: Pixels | None
    rejection: Rejection | None = None


class PictureGenerator(Protocol):
    """Makes pictures; loaded once per worker."""

    @property
    def size(self) -> int:
        """Shorter side of a picture, pixels."""
        ...

    @property
    def square(self) -> bool:
        """Whether all pictures are squares."""
        ...

    @property
    def sees_subjects(self) -> bool:
        """Whether it looks at the subject; else it is not read."""
        ...

    def make(self, asked: Sequence[Asked]) -> list[Made]:
        """One picture each, in order; the photos are all of one size."""
        ...


def made_of(values: npt.NDArray[Any], *, unsafe: bool = False) -> Made:
    """A picture from a decoder's output, float [H, W, 3] in 0 … 1.

    Args:
        values: nan or infinity anywhere rejects the picture: a network overflowed.
        unsafe: whether the pipeline's safety checker objected.
    """
    if not np.isfinite(values).all():
        return Made(None, Rejection.NOT_FINITE)
    pixels = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
    if unsafe:
        return Made(pixels, Rejection.UNSAFE)
    return Made(pixels, Rejection.BLANK if is_blank(pixels) else None)
