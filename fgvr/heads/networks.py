"""The networks of heads: from unit vectors to logits of names.

Unit vectors have coordinates of size 1/√d. A linear head and an MLP see them multiplied by √d, so that one learning
rate serves vectors of any length; a cosine head compares directions, scaled by `SCALE`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from fgvr.heads.prototypes import SCALE

Kind = Literal["cosine", "linear", "mlp"]


class CosineHead(nn.Module):
    """Logits = scale · cosine of a vector and each name's direction. Prototypes are such a head, too."""

    def __init__(self, dim: int, names: int, scale: float = SCALE) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(F.normalize(torch.randn(names, dim), dim=1))

    def forward(self, vectors: Tensor) -> Tensor:
        """Float32 [N, d] → [N, C]."""
        logits: Tensor = self.scale * (vectors @ F.normalize(self.weight, dim=1).T)
        return logits


class LinearHead(nn.Module):
    """Multinomial logistic regression; starts at zero, where all names are equally probable."""

    def __init__(self, dim: int, names: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(names, dim)), nn.Parameter(torch.zeros(names))

    def forward(self, vectors: Tensor) -> Tensor:
        """Float32 [N, d] → [N, C]."""
        return F.linear(vectors * vectors.shape[1] ** 0.5, self.weight, self.bias)


class MlpHead(nn.Module):
    """One hidden layer; its dropout is on in training only."""

    def __init__(self, dim: int, names: int, hidden: int) -> None:
        super().__init__()
        self.hidden, self.drop, self.out = nn.Linear(dim, hidden), nn.Dropout(0.2), nn.Linear(hidden, names)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """Float32 [N, d] → [N, C]."""
        logits: Tensor = self.out(self.drop(F.gelu(self.hidden(vectors * vectors.shape[1] ** 0.5))))
        return logits


def build_network(kind: Kind, dim: int, names: int, hidden: int, scale: float = SCALE) -> nn.Module:
    """A head of that kind with initial weights from torch's random state."""
    match kind:
        case "cosine":
            return CosineHead(dim, names, scale)
        case "linear":
            return LinearHead(dim, names)
        case "mlp":
            return MlpHead(dim, names, hidden)
