"""Metadata beside vectors: a head sees both in one row, and in training some columns are hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from fgvr.arrays import Floats
from fgvr.config.metadata import Metadata
from fgvr.metadata.encoder import drawn, hidden
from fgvr.metadata.fitted import FittedMetadata

SHARE: Final = 0.25
"""Factor of the features: vectors have length 1, a category alone would have, too. A power of two, so that it can be
taken out again without rounding. Not tuned."""


def joined(vectors: Floats, features: Floats) -> Floats:
    """What a head sees: vectors [n, d] and features [n, D] side by side, float32 [n, d + D]."""
    return np.asarray(np.concatenate([vectors, SHARE * features], axis=1), np.float32)


@dataclass(frozen=True)
class Hiding:
    """Hides columns in training steps.

    Attributes:
        dim: length of the vectors before the features.
        widths: numbers of each column.
        each: probability that a column is hidden.
        together: probability that all columns of an image are.
    """

    dim: int
    widths: tuple[int, ...]
    each: float
    together: float

    def __call__(self, inputs: Tensor) -> Tensor:
        """The rows [n, d + D] of a step as the head learns from them; draws from torch's random state."""
        gone = drawn(len(inputs), len(self.widths), self.each, self.together)
        features = hidden(inputs[:, self.dim :] / SHARE, self.widths, gone)
        return torch.cat([inputs[:, : self.dim], SHARE * features], dim=1)


@dataclass(frozen=True)
class Beside:
    """The metadata of N images that a head learns from.

    Attributes:
        fitted: the columns.
        features: float32 [N, D].
        settings: how often columns are hidden.
    """

    fitted: FittedMetadata
    features: Floats
    settings: Metadata

    def hiding(self, dim: int) -> Hiding:
        """For vectors of this length."""
        return Hiding(dim, self.fitted.widths, self.settings.dropout, self.settings.dropout_all)
