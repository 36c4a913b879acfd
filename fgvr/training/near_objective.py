"""The partial-label losses of `near.loss` on candidate sets in places 0..K−1, as the tables hold them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fgvr.candidates import NONE
from fgvr.config import Near
from fgvr.losses import pll

STEPWISE = ("proden", "lws", "cavl")
"""Losses whose weights follow every step; RC's follow every epoch, the others keep theirs."""


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
    if settings.loss == "lws":
        return pll.lws_loss(logits, weights, candidate_mask(targets.label_ids, names), settings.lws_beta)
    return pll.proden_loss(logits, weights)


def candidate_loss(logits: Tensor, label_ids: Tensor) -> Tensor:
    """−mean log of the probability that some candidate is right: the criterion on held-out images."""
    return pll.cc_loss(logits, candidate_mask(label_ids, logits.shape[1]))


def disambiguated(logits: Tensor, label_ids: Tensor) -> Tensor:
    """PRODEN's weights, the probabilities of the candidates among themselves: float32 [n, K], detached."""
    return _in_places(pll.proden_weights(logits, candidate_mask(label_ids, logits.shape[1])), label_ids)


def updated_weights(settings: Near, logits: Tensor, targets: Targets) -> Tensor:
    """What the next step learns from: the loss's own weights, float32 [n, K], detached.

    CAVL takes the strongest candidate, all others share as PRODEN does. `own_weight` goes to the image's own label
    first, if it is a candidate: neighbours that all agree on something else cannot take everything from it.
    """
    if settings.loss == "cavl":
        mask = candidate_mask(targets.label_ids, logits.shape[1])
        weights = _in_places(pll.cavl_weights(logits, mask), targets.label_ids)
    else:
        weights = disambiguated(logits, targets.label_ids)
    own = (targets.label_ids == targets.own[:, None]) & (targets.label_ids != NONE)
    share = settings.own_weight * own.any(dim=1, keepdim=True)
    return (1.0 - share) * weights + share * own


def candidate_mask(label_ids: Tensor, names: int) -> Tensor:
    """Bool [n, C] of candidates in places [n, K]."""
    return _spread(torch.ones_like(label_ids, dtype=torch.bool), label_ids, names)


def _in_places(weights: Tensor, label_ids: Tensor) -> Tensor:
    """Weights of labels [n, C] as weights of places [n, K]."""
    return weights.gather(1, label_ids.clamp(min=0)).masked_fill(label_ids == NONE, 0.0)


def _spread(values: Tensor, label_ids: Tensor, names: int) -> Tensor:
    """Values in places [n, K] as values of labels [n, C]; unused places go to a column that is cut off."""
    spread = torch.zeros((len(values), names + 1), dtype=values.dtype, device=values.device)
    return spread.scatter(1, label_ids.masked_fill(label_ids == NONE, names), values)[:, :names]
