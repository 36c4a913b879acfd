"""Heads are trained on stored vectors: full-batch where it fits, in seconds on a CPU, with any loss for noisy labels.

A step sees all images, or as many as keep images × names within `CELLS`; then training makes at least one pass.
AdamW with a learning rate that falls to zero as a cosine. The same seed gives the same head.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fgvr.arrays import NONE, Floats, Ids
from fgvr.candidates.sets import CandidateSets
from fgvr.errors import UserError
from fgvr.heads.beside import Hiding
from fgvr.heads.networks import SCALE, CosineHead, Kind, build_network
from fgvr.losses import pll
from fgvr.losses.long_tail import balanced_cross_entropy, seesaw_loss

log = logging.getLogger(__name__)

RECIPE = 1
"""Increase it when the same vectors and labels would give another head."""
CELLS = 2**25
"""Images × names in a step: 128 MB of logits."""
WORTH_THREADS = 2**29
"""Images × names × dimensions from which a step is computed by several threads."""

Loss = Literal["ce", "gce", "balanced", "seesaw", "proden", "cc", "lws", "cavl"]
STEPWISE = ("proden", "lws", "cavl")
"""Losses whose candidate weights are updated after every step."""


class HeadError(UserError, ValueError):
    """A head cannot be trained; the message says why and what to do."""


@dataclass(frozen=True)
class HeadRecipe:
    """How a head is trained.

    Attributes:
        kind: network.
        loss: what is minimised. `ce`, `balanced` and `seesaw` use the first candidate of each image alone.
        steps: training steps; more where one pass takes more.
        lr: peak learning rate of AdamW.
        weight_decay: its decoupled weight decay.
        hidden: width of the hidden layer (`mlp`).
        scale: factor of the cosines (`cosine`).
        gce_q: q of `gce`.
        lws_beta: β of `lws`.
    """

    kind: Kind = "cosine"
    loss: Loss = "gce"
    steps: int = 300
    lr: float = 0.01
    weight_decay: float = 0.0
    hidden: int = 512
    scale: float = SCALE
    gce_q: float = 0.7
    lws_beta: float = 1.0


@dataclass(frozen=True)
class HeadExamples:
    """What a head learns from; images without candidates teach nothing and are left out.

    Attributes:
        vectors: unit vectors, float32 [N, d].
        sets: names of each image with their weights; the first is the image's own label. Ids are 0..C−1.
        names: C.
        hiding: hides columns of metadata, which stand behind each vector; None: there are none.
    """

    vectors: Floats
    sets: CandidateSets
    names: int
    hiding: Hiding | None = None

    @classmethod
    def of_labels(cls, vectors: Floats, labels: Ids, names: int) -> HeadExamples:
        """One label per image, int64 [N]; `NONE` if it has none."""
        one = np.asarray(labels, np.int32)[:, None]
        return cls(vectors, CandidateSets(one, (one != NONE).astype(np.float32)), names)

    def only(self, rows: Ids) -> HeadExamples:
        """Some of the images, by row number."""
        sets = CandidateSets(self.sets.label_ids[rows], self.sets.weights[rows])
        return HeadExamples(self.vectors[rows], sets, self.names, self.hiding)


def train_head(
    examples: HeadExamples, recipe: HeadRecipe, *, seed: int = 0, start: Floats | None = None, threads: int = 1
) -> tuple[nn.Module, list[float]]:
    """A trained head, and the loss of every step.

    Args:
        examples: the images.
        recipe: how.
        seed: of the initial weights and the order of the images.
        start: directions with which a cosine head starts, such as text vectors, float32 [C, d].
        threads: number of cores that may be used.

    Raises:
        HeadError: no image has a candidate, the arrays do not fit together, or the loss is not finite.
    """
    taught = examples.only(np.flatnonzero(examples.sets.sizes > 0))
    _check(taught, start)
    before = torch.get_num_threads()
    size = len(taught.vectors) * examples.names * examples.vectors.shape[1]
    # Threads that wait for each other in every small product cost more than they bring, above all on busy machines.
    torch.set_num_threads(threads if size > WORTH_THREADS else 1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_network(recipe.kind, examples.vectors.shape[1], examples.names, recipe.hidden, recipe.scale)
            if start is not None:
                _begin_at(network, start)
            return network.eval(), _fit(network, taught, recipe, np.random.default_rng(seed))
    finally:
        torch.set_num_threads(before)


def _check(examples: HeadExamples, start: Floats | None) -> None:
    ids, shape = examples.sets.label_ids, examples.vectors.shape
    if not len(examples.sets):
        raise HeadError("heads: no image has both a label and a vector, so there is nothing to learn from")
    if shape[0] != len(ids) or int(ids.max()) >= examples.names:
        raise HeadError(f"heads: vectors {shape} and labels up to {ids.max()} for {examples.names} names")
    if not np.isfinite(examples.vectors).all():
        raise HeadError("heads: a vector is not finite")
    if start is not None and start.shape != (examples.names, shape[1]):
        raise HeadError(f"heads: a start of {start.shape} for {examples.names} names and vectors of {shape[1]}")


def _begin_at(network: nn.Module, start: Floats) -> None:
    if not isinstance(network, CosineHead):
        raise HeadError("heads: only a cosine head can start at given directions (heads.kind = cosine)")
    with torch.no_grad():
        network.weight.copy_(torch.from_numpy(start))


def _fit(network: nn.Module, examples: HeadExamples, recipe: HeadRecipe, rng: np.random.Generator) -> list[float]:
    vectors = torch.from_numpy(np.ascontiguousarray(examples.vectors, np.float32))
    targets = _Targets(examples, recipe)
    batch = min(len(vectors), max(1, CELLS // examples.names))
    steps = max(recipe.steps, -(-len(vectors) // batch))
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    history: list[float] = []
    network.train()
    for _, rows in zip(range(steps), _batches(len(vectors), batch, rng), strict=False):
        seen = vectors[rows]
        logits = network(seen if examples.hiding is None else examples.hiding(seen))
        loss = targets.loss(logits, rows)
        history.append(float(loss.detach()))
        if not np.isfinite(history[-1]):
            raise HeadError(f"heads: the loss is {history[-1]} after {len(history)} steps; lower heads.lr")
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        targets.update(logits.detach(), rows)
    network.eval()
    return history


def _batches(count: int, size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Rows of step after step, without end: all at once where they fit, else each pass in another order."""
    while True:
        order = torch.arange(count) if size == count else torch.from_numpy(rng.permutation(count))
        yield from torch.split(order, size)


class _Targets:
    """The labels or candidate sets of the images, and the configured loss."""

    def __init__(self, examples: HeadExamples, recipe: HeadRecipe) -> None:
        self.recipe, self.names = recipe, examples.names
        self.ids = torch.from_numpy(examples.sets.label_ids.astype(np.int64))
        self.weights = torch.from_numpy(examples.sets.weights.copy())
        self.counts = torch.bincount(self.ids[:, 0], minlength=examples.names)

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """The mean over the images `rows`: a scalar."""
        own = self.ids[rows, 0]
        match self.recipe.loss:
            case "ce":
                return pll.cross_entropy(logits, own)
            case "balanced":
                return balanced_cross_entropy(logits, own, self.counts)
            case "seesaw":
                return seesaw_loss(logits, own, self.counts)
        return self._loss_of_sets(logits, rows)

    def _loss_of_sets(self, logits: Tensor, rows: Tensor) -> Tensor:
        mask, weights = self._mask(rows), _spread(self.weights[rows], self.ids[rows], self.names)
        match self.recipe.loss:
            case "cc":
                return pll.cc_loss(logits, mask)
            case "gce":
                return pll.gce_loss(logits, weights, self.recipe.gce_q)
            case "lws":
                return pll.lws_loss(logits, weights, mask, self.recipe.lws_beta)
        return pll.proden_loss(logits, weights)

    def _mask(self, rows: Tensor) -> Tensor:
        return _spread(torch.ones_like(self.ids[rows], dtype=torch.bool), self.ids[rows], self.names)

    def update(self, logits: Tensor, rows: Tensor) -> None:
        """New candidate weights from a step's logits, where the loss has such."""
        if self.recipe.loss not in STEPWISE:
            return
        ids = self.ids[rows]
        rule = pll.cavl_weights if self.recipe.loss == "cavl" else pll.proden_weights
        self.weights[rows] = rule(logits, self._mask(rows)).gather(1, ids.clamp(min=0)).masked_fill(ids == NONE, 0.0)


def _spread(values: Tensor, ids: Tensor, names: int) -> Tensor:
    """Values of candidate columns [n, K] as values of names [n, C]; unused ones go to a column that is cut off."""
    spread = torch.zeros((len(values), names + 1), dtype=values.dtype)
    return spread.scatter(1, ids.masked_fill(ids == NONE, names), values)[:, :names]
