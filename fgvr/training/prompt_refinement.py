"""What some losses of NeaR keep beside the candidate weights, and how the weights follow from it.

PRODEN and its kin need nothing: an image's next weights follow from its logits. POP keeps the weights of the last
epochs and the candidates that are left, RECORDS a mean feature, the mixture the probability that each own label is
clean. All of it is the same on every number of workers, and in every checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from fgvr.arrays import NONE
from fgvr.config import Near
from fgvr.losses.mixture import clean_probability
from fgvr.losses.real_noise import followed_mean, grown_threshold, log_class_prior, purified
from fgvr.training.prompt_scores import NearScores, Targets, updated_weights
from fgvr.training.reporter import joined_rows, sum_over_workers

WINDOW = 5
"""Epochs over which POP averages weights, and between two purifications (the authors' code)."""


class Refinement:
    """How candidate weights follow from predictions; this one, for most losses, keeps nothing.

    Args:
        settings: the recipe.
        scores: a worker's images and the names; images follow in the order of all workers.
        learned: bool [N], which images of all workers are trained on.
    """

    def __init__(self, settings: Near, scores: NearScores, learned: npt.NDArray[np.bool_]) -> None:
        self.settings, self.scores, self.data, self.learned = settings, scores, scores.data, learned

    def start(self, weights: Tensor) -> Tensor:
        """The weights [n, K] of this worker's images before the first epoch, from the initial ones."""
        return weights

    def before_step(self, rows: Tensor, views: Tensor, images: int) -> None:
        """Called before each step with this worker's rows of it, and the number of images over all workers."""

    def updated(self, logits: Tensor, targets: Targets, names: Tensor) -> Tensor:
        """The next weights of a part of a step's images: float32 [n, K]; `names`: [C, d]."""
        return updated_weights(self.settings, logits, targets)

    def end_epoch(self, epoch: int, weights: Tensor) -> Tensor:
        """The weights of this worker's images after an epoch, counted from 0; all workers call it."""
        return weights

    def final(self, names: Tensor) -> Tensor:
        """The disambiguated weights by these names: float32 [n, K]."""
        return self.scores.weights(names)

    def measures(self) -> dict[str, float]:
        """Numbers to report."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it, of all workers' images; all workers call it."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""

    def _joined(self, rows: Tensor) -> Tensor:
        return joined_rows(rows, self.data.first, self.data.total, self.scores.world_size)

    def _mine(self, rows: Tensor) -> Tensor:
        return rows[self.data.first : self.data.first + len(self.data)].to(self.data.label_ids.device)


class Purification(Refinement):
    """POP: every `WINDOW` epochs after `refine_after`, candidates with hardly any weight leave their sets for good."""

    def __init__(self, settings: Near, scores: NearScores, learned: npt.NDArray[np.bool_]) -> None:
        super().__init__(settings, scores, learned)
        self.threshold, self.removed = settings.pop_threshold, 0
        self.record = self.data.weights.new_zeros((len(self.data), WINDOW, self.data.weights.shape[1]))

    def end_epoch(self, epoch: int, weights: Tensor) -> Tensor:
        """See Refinement."""
        self.record[:, epoch % WINDOW] = weights
        if epoch < max(self.settings.refine_after, WINDOW - 1) or epoch % WINDOW:
            return weights
        before = self.data.label_ids != NONE
        mean = self.record.mean(dim=1)
        kept = purified(mean, before, self.threshold)
        changed = (before & ~kept).sum()
        removed = int(sum_over_workers(changed, self.scores.world_size))
        self.removed += removed
        images, names = self.data.total, len(self.data.names)
        self.threshold = grown_threshold(
            self.threshold, self.settings.pop_growth, changed=removed, images=images, labels=names
        )
        self.data.label_ids[~kept] = NONE  # also for the scores, which read the same sets
        left = mean.masked_fill(~kept, 0.0)
        return left / left.sum(dim=1, keepdim=True)

    def measures(self) -> dict[str, float]:
        """See Refinement."""
        return {"removed_candidates": float(self.removed)}

    def state(self) -> dict[str, Any]:
        """See Refinement."""
        kept = self._joined((self.data.label_ids != NONE).to(torch.uint8))
        record = self._joined(self.record)
        return {"kept": kept.cpu(), "record": record.cpu(), "threshold": self.threshold, "removed": self.removed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See Refinement."""
        self.threshold, self.removed = state["threshold"], state["removed"]
        self.record = self._mine(state["record"])
        self.data.label_ids[self._mine(state["kept"]) == 0] = NONE


class Rebalancing(Refinement):
    """RECORDS: weights follow from logits without the class prior that the prompts give the mean image feature."""

    def __init__(self, settings: Near, scores: NearScores, learned: npt.NDArray[np.bool_]) -> None:
        super().__init__(settings, scores, learned)
        self.mean = torch.zeros(self.data.features.shape[2], device=self.data.features.device)

    def before_step(self, rows: Tensor, views: Tensor, images: int) -> None:
        """See Refinement: the mean follows the mean feature of the whole step."""
        total = self.data.features[rows, views[rows]].float().sum(dim=0)
        mean = sum_over_workers(total, self.scores.world_size) / images
        self.mean = followed_mean(self.mean, mean, self.settings.records_momentum)

    def updated(self, logits: Tensor, targets: Targets, names: Tensor) -> Tensor:
        """See Refinement."""
        return updated_weights(self.settings, logits.detach() - self.log_prior(names), targets)

    def log_prior(self, names: Tensor) -> Tensor:
        """The logarithm of the prompts' class prior: float32 [C]."""
        return log_class_prior(self.scores.clip.logit_scale * (names.detach() @ self.mean))

    def final(self, names: Tensor) -> Tensor:
        """See Refinement: without the class prior, too."""
        return self.scores.weights(names, self.log_prior(names))

    def state(self) -> dict[str, Any]:
        """See Refinement."""
        return {"mean": self.mean.cpu()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See Refinement."""
        self.mean = state["mean"].to(self.mean.device)


class Split(Refinement):
    """The mixture: own labels alone at first; after `refine_after` epochs each as far as its loss says it is clean.

    The rest of an image's weight goes to its candidates, as PRODEN shares it. An image whose own label is no candidate,
    or that has none, learns from its candidates alone.
    """

    def __init__(self, settings: Near, scores: NearScores, learned: npt.NDArray[np.bool_]) -> None:
        super().__init__(settings, scores, learned)
        own, ids = self.data.own, self.data.label_ids
        self.own = ((ids == own[:, None]) & (ids != NONE)).float()
        self.clean = np.ones(self.data.total, dtype=np.float32)

    def start(self, weights: Tensor) -> Tensor:
        """See Refinement."""
        return torch.where(self.own.any(dim=1, keepdim=True), self.own, weights)

    def end_epoch(self, epoch: int, weights: Tensor) -> Tensor:
        """See Refinement."""
        if epoch + 1 < self.settings.refine_after:
            return weights
        names = self.scores.names()
        self.clean = self._split(self._losses(names))
        share = self._mine(torch.from_numpy(self.clean))[:, None]
        return share * self.own + (1.0 - share) * self.scores.weights(names)

    @torch.no_grad()
    def _losses(self, names: Tensor) -> Tensor:
        """Cross entropy of each image's own label, of all workers' images, NaN without one: float32 [N]."""
        losses = torch.full((len(self.data),), torch.nan, device=names.device)
        for part in self.scores.parts(torch.arange(len(self.data), device=names.device)):
            own = self.data.own[part]
            found = F.cross_entropy(self.scores.logits(part, names), own.clamp(min=0), reduction="none")
            losses[part] = found.masked_fill(~self.own[part].any(dim=1), torch.nan)
        return self._joined(losses)

    def _split(self, losses: Tensor) -> npt.NDArray[np.float32]:
        """The probabilities that own labels are clean; one worker fits the mixture, so that all have the same."""
        clean = np.zeros(self.data.total, dtype=np.float32)
        if self.data.first == 0:
            found = losses.cpu().numpy()
            clean = clean_probability(found, np.isfinite(found))
        shared = torch.from_numpy(clean).to(losses.device)
        return sum_over_workers(shared, self.scores.world_size).cpu().numpy()

    def measures(self) -> dict[str, float]:
        """See Refinement."""
        return {"clean_share": float(self.clean[self.learned].mean())}

    def state(self) -> dict[str, Any]:
        """See Refinement."""
        return {"clean": torch.from_numpy(self.clean)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See Refinement."""
        self.clean = state["clean"].numpy()


def refinement(settings: Near, scores: NearScores, learned: npt.NDArray[np.bool_]) -> Refinement:
    """What the configured loss keeps; arguments as for Refinement."""
    kinds: dict[str, type[Refinement]] = {"pop": Purification, "records": Rebalancing, "mixture": Split}
    return kinds.get(settings.loss, Refinement)(settings, scores, learned)
