"""The partial-label losses of `near.loss` on candidate sets in places 0..K−1, as the tables hold them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fgvr.candidates import NONE
from fgvr.config import Near
from fgvr.losses import pll


@dataclass(frozen=True)
class Targets:
    """What n images may be.

    Attributes:
        label_ids: candidates int64 [n, K]; `NONE` in unused places.
        weights: float32 [n, K], 0 in unused places.
        own: the image's own label int64 [n]; `NONE` where it has none.
    """

    label_ids: Tensor
    weights: Tensor
    own: Tensor


def loss(settings: Near, logits: Tensor, targets: Targets) -> Tensor:
    """The configured loss, the mean over the images: a scalar. `logits` [n, C]."""
    names = logits.shape[1]
    if settings.loss == "ce":
        return pll.cross_entropy(logits, targets.own)
    if settings.loss == "cc":
        return pll.cc_loss(logits, candidate_mask(targets.label_ids, names))
    weights = _spread(targets.weights, targets.label_ids, names)
    if settings.loss == "gce":
        return pll.gce_loss(logits, weights, settings.gce_q)
    return pll.proden_loss(logits, weights)


def candidate_loss(logits: Tensor, label_ids: Tensor) -> Tensor:
    """−mean log of the probability that some candidate is right: the criterion on held-out images."""
    return pll.cc_loss(logits, candidate_mask(label_ids, logits.shape[1]))


def disambiguated(logits: Tensor, label_ids: Tensor) -> Tensor:
    """PRODEN's weights, the probabilities of the candidates among themselves: float32 [n, K], detached."""
    weights = pll.proden_weights(logits, candidate_mask(label_ids, logits.shape[1]))
    return weights.gather(1, label_ids.clamp(min=0)).masked_fill(label_ids == NONE, 0.0)


def candidate_mask(label_ids: Tensor, names: int) -> Tensor:
    """Bool [n, C] of candidates in places [n, K]."""
    return _spread(torch.ones_like(label_ids, dtype=torch.bool), label_ids, names)


def _spread(values: Tensor, label_ids: Tensor, names: int) -> Tensor:
    """Values in places [n, K] as values of labels [n, C]; unused places go to a column that is cut off."""
    spread = torch.zeros((len(values), names + 1), dtype=values.dtype, device=values.device)
    return spread.scatter(1, label_ids.masked_fill(label_ids == NONE, names), values)[:, :names]
