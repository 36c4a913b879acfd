"""The network of a student's metadata: hides columns in training, and turns a row of features into a vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn


def hidden(features: Tensor, widths: Sequence[int], columns: Tensor) -> Tensor:
    """The features as if some columns were missing: their numbers 0, their flags 1.

    Args:
        features: float [n, D + K], see `fgvr.metadata.fitted`.
        widths: numbers of each of the K columns, D in all.
        columns: bool [n, K], which to hide; those that are missing anyway stay so.
    """
    total = sum(widths)
    flags = torch.maximum(features[:, total:], columns.to(features.dtype))
    sizes = torch.tensor(widths, device=features.device)
    kept = 1 - torch.repeat_interleave(flags, sizes, dim=1)
    return torch.cat([features[:, :total] * kept, flags], dim=1)


def drawn(count: int, columns: int, each: float, together: float, device: torch.device | str = "cpu") -> Tensor:
    """Which columns are hidden in a step, bool [n, K]: each with one probability, and all of a photo with another."""
    alone = torch.rand(count, columns, device=device) < each
    return alone | (torch.rand(count, 1, device=device) < together)


class MetadataEncoder(nn.Module):
    """Features [n, D + K] → [n, dim]: two layers with layer normalisation.

    A missing column adds nothing but its flag, so that nothing of its weights is learned from it.
    """

    def __init__(self, widths: Sequence[int], dim: int) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.inner = nn.Linear(sum(widths) + len(widths), dim)
        self.norm = nn.LayerNorm(dim)
        self.outer = nn.Linear(dim, dim)

    def forward(self, features: Tensor) -> Tensor:
        """Numbers of columns whose flag says that they are missing are not looked at."""
        none = torch.zeros(1, len(self.widths), dtype=torch.bool, device=features.device)
        seen = hidden(features, self.widths, none)
        return cast("Tensor", self.outer(nn.functional.gelu(self.norm(self.inner(seen)))))
