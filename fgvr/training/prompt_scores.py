"""One worker's computations in NeaR training: logits, losses, candidate weights, and a step's gradient.

The partial-label losses of `near.loss` (`fgvr.losses.pll`) run on candidate sets in columns 0..K−1, as in the tables.
The gradient of a step is computed in three parts, so that memory depends neither on names nor on images: features of
the names; the loss and its gradient with respect to these, a few images at a time; from there back through the text
tower, a chunk of names at a time (`PromptLearner.features`). Neither images × names nor the activations of all names
are ever held in memory, and the gradient equals that of a single graph up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fgvr.arrays import NONE
from fgvr.clip.model import ClipModel, low_precision
from fgvr.clip.prompt import PromptLearner, phrase_context, random_context
from fgvr.clip.prompt_layout import prompt_layout
from fgvr.clip.text_tower import TextTower
from fgvr.config import Near
from fgvr.losses import pll
from fgvr.models.near import ClassFeatures
from fgvr.training.prompt_data import NearData
from fgvr.training.reporter import joined_rows, share, sum_over_workers

LOGITS_AT_ONCE = 2**24  # images × names held in memory at a time, whatever the batch size
STEPWISE = ("proden", "lws", "cavl", "pop", "records")
"""Losses whose weights are updated in every step; those of RC and the mixture are in every epoch, the others' never."""


@dataclass(frozen=True)
class Targets:
    """Targets of n images.

    Attributes:
        label_ids: candidates int64 [n, K]; `NONE` in unused positions.
        weights: float32 [n, K], 0 in unused positions.
        own: the image's own label int64 [n]; `NONE` if it has none.
    """

    label_ids: Tensor
    weights: Tensor
    own: Tensor


def loss(settings: Near, logits: Tensor, targets: Targets) -> Tensor:
    """The configured loss, the mean over the images: a scalar. `logits`: [n, C]."""
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
    """−mean log of the probability that some candidate is right: the criterion for held-out images."""
    return pll.cc_loss(logits, candidate_mask(label_ids, logits.shape[1]))


def disambiguated(logits: Tensor, label_ids: Tensor) -> Tensor:
    """PRODEN's weights, the renormalised probabilities of the candidates: float32 [n, K], detached."""
    return _in_places(pll.proden_weights(logits, candidate_mask(label_ids, logits.shape[1])), label_ids)


def updated_weights(settings: Near, logits: Tensor, targets: Targets) -> Tensor:
    """The weights for the next step, following the configured loss: float32 [n, K], detached.

    CAVL selects the strongest candidate, all others share as in PRODEN. `own_weight` is given to the image's own label
    first, if it is a candidate: even if all neighbours agree on another label, it keeps that much.
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
    """Bool [n, C] from candidates in columns [n, K]."""
    return _spread(torch.ones_like(label_ids, dtype=torch.bool), label_ids, names)


def _in_places(weights: Tensor, label_ids: Tensor) -> Tensor:
    """Weights of labels [n, C] as weights of candidate columns [n, K]."""
    return weights.gather(1, label_ids.clamp(min=0)).masked_fill(label_ids == NONE, 0.0)


def _spread(values: Tensor, label_ids: Tensor, names: int) -> Tensor:
    """Values of candidate columns [n, K] as values of labels [n, C]; unused ones go to a column that is cut off."""
    spread = torch.zeros((len(values), names + 1), dtype=values.dtype, device=values.device)
    return spread.scatter(1, label_ids.masked_fill(label_ids == NONE, names), values)[:, :names]


def backward_through_names(
    learner: PromptLearner,
    mine: Tensor,
    parts: Iterable[Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    rank: int = 0,
    world_size: int = 1,
) -> Tensor:
    """Set the gradient of the learner's context, the sum over all workers; returns this worker's loss, a scalar.

    Args:
        learner: the prompts, the same on all workers.
        mine: features of this worker's `share` of the names with their gradient, float32 [c, d].
        parts: which of this worker's images are compared with the names at a time.
        loss: computes a part's term of the loss from the part and the features of all names [C, d].
        rank: this worker's rank.
        world_size: number of workers.
    """
    stretch = share(len(learner), rank, world_size)
    names = joined_rows(mine, stretch.start, len(learner), world_size).clone().requires_grad_()
    total = torch.zeros((), device=names.device)
    for part in parts:
        term = loss(part, names)
        torch.autograd.backward(term)
        total += term.detach()
    gradient = torch.zeros_like(names) if names.grad is None else names.grad
    sum_over_workers(gradient, world_size)
    torch.autograd.backward(mine, gradient[stretch])
    if learner.context.grad is not None:
        sum_over_workers(learner.context.grad, world_size)
    return total


class NearScores:
    """A worker's share of images and names, and the prompts, which are the same on all workers.

    Args:
        settings: the recipe.
        clip: the model, on the worker's device.
        data: the worker's images, on the device.
        rank: the worker's rank.
        world_size: number of workers.

    `learner`: the prompts; `shortened`: names that lost tokens because they did not fit.
    """

    def __init__(self, settings: Near, clip: ClipModel, data: NearData, rank: int, world_size: int) -> None:
        self.settings, self.clip, self.data, self.world_size = settings, clip, data, world_size
        tower, start = TextTower.of(clip.network), _start(settings, clip)
        layout = prompt_layout(clip.tokenizer, tower, data.names, len(start), settings.name_position)
        self.shortened = [data.names[index] for index in layout.shortened]
        self.learner = PromptLearner(tower, layout, start, settings.class_specific).to(clip.device)
        self.mine = share(len(data.names), rank, world_size)

    def my_names(self) -> Tensor:
        """Features of this worker's share of the names, float32 [c, d], with gradient."""
        with low_precision(self.clip.device):
            return self.learner.features(self.settings.text_chunk, self.mine)

    def all_names(self, mine: Tensor) -> Tensor:
        """Features of all names from the workers' shares, float32 [C, d], without gradient."""
        return joined_rows(mine, self.mine.start, len(self.learner), self.world_size)

    @torch.no_grad()
    def names(self) -> Tensor:
        """Features of all names with the current context, float32 [C, d]."""
        return self.all_names(self.my_names())

    def classes(self, names: Tensor) -> ClassFeatures:
        """The same as the text side of a classifier."""
        return ClassFeatures(self.data.names, names.cpu().numpy(), self.clip.logit_scale)

    def parts(self, rows: Tensor) -> list[Tensor]:
        """The rows in parts, so small that their logits over all names take little memory; no part is empty."""
        size = max(1, LOGITS_AT_ONCE // len(self.learner))
        return [rows[at : at + size] for at in range(0, len(rows), size)]

    def logits(self, rows: Tensor, names: Tensor, views: Tensor | None = None) -> Tensor:
        """fp32 [n, C]: scaled cosines of images (one view of each, or the plain image) and names."""
        images = self.data.features[rows, 0 if views is None else views[rows]].float()
        return self.clip.logit_scale * images @ names.T

    def weights(self, names: Tensor, log_prior: Tensor | None = None) -> Tensor:
        """PRODEN's weights for all of this worker's images, if need be without a class prior [C]: float32 [n, K]."""
        prior = 0.0 if log_prior is None else log_prior
        return self._weights(names, lambda logits, targets: disambiguated(logits - prior, targets.label_ids))

    def updated_weights(self, names: Tensor) -> Tensor:
        """The configured loss's next weights, for all of this worker's images: float32 [n, K]."""
        return self._weights(names, lambda logits, targets: updated_weights(self.settings, logits, targets))

    @torch.no_grad()
    def _weights(self, names: Tensor, rule: Callable[[Tensor, Targets], Tensor]) -> Tensor:
        weights = torch.empty_like(self.data.weights)
        for part in self.parts(torch.arange(len(self.data), device=names.device)):
            targets = Targets(self.data.label_ids[part], self.data.weights[part], self.data.own[part])
            weights[part] = rule(self.logits(part, names), targets)
        return weights

    @torch.no_grad()
    def candidate_loss(self, chosen: npt.NDArray[np.bool_], names: Tensor) -> float:
        """Mean over the chosen images of all workers (bool, by position) of −log p(some candidate)."""
        here = np.flatnonzero(chosen[self.data.first : self.data.first + len(self.data)])
        total = torch.zeros((), device=names.device)
        for part in self.parts(torch.from_numpy(here).to(names.device)):
            total += candidate_loss(self.logits(part, names), self.data.label_ids[part]) * len(part)
        return float(sum_over_workers(total, self.world_size)) / int(chosen.sum())

    def all_weights(self, mine: Tensor) -> Tensor:
        """The candidate weights of all images, from the workers' shares: float32 [N, K]."""
        return joined_rows(mine, self.data.first, self.data.total, self.world_size)


def _start(settings: Near, clip: ClipModel) -> Tensor:
    tower = TextTower.of(clip.network)
    if settings.context_init is None:
        return random_context(tower, settings.context_length, settings.seed)
    return phrase_context(tower, clip.tokenizer, settings.context_init)
