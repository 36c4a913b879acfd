"""Auxiliary heads: one linear classifier an attribute, which make features hold every look of a bird."""

import torch
from torch import Tensor, nn

from fgvr.demo.training.drawings import ATTRIBUTE_SIZES


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
