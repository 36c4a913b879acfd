"""What one worker of a NeaR training computes with the context as it stands: names, logits, weights, held-out loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fgvr.clip.classifier import ClassFeatures
from fgvr.clip.model import ClipModel
from fgvr.clip.precision import low_precision
from fgvr.clip.prompt import PromptLearner, phrase_context, random_context
from fgvr.clip.prompt_layout import prompt_layout
from fgvr.clip.text_tower import TextTower
from fgvr.config import Near
from fgvr.training import near_objective as objective
from fgvr.training.collective import joined_rows, share, sum_over_workers
from fgvr.training.near_data import NearData

LOGITS_AT_ONCE = 2**24  # images × names: what is held of them at once, whatever the batch


class NearScores:
    """A worker's share of images and names, and the prompts that all workers have alike.

    Args:
        settings: the recipe.
        clip: the model, on the worker's device.
        data: the worker's images, on the device.
        rank: the worker.
        world_size: all workers.

    `learner` are the prompts; `shortened` the names that lost tokens because they did not fit.
    """

    def __init__(self, settings: Near, clip: ClipModel, data: NearData, rank: int, world_size: int) -> None:
        self.settings, self.clip, self.data, self.world_size = settings, clip, data, world_size
        tower, start = TextTower.of(clip.network), _start(settings, clip)
        layout = prompt_layout(clip.tokenizer, tower, data.names, len(start), settings.name_position)
        self.shortened = [data.names[index] for index in layout.shortened]
        self.learner = PromptLearner(tower, layout, start, settings.class_specific).to(clip.device)
        self.mine = share(len(data.names), rank, world_size)

    def my_names(self) -> Tensor:
        """Features of this worker's stretch of the names, float32 [c, d], with their gradient."""
        with low_precision(self.clip.device):
            return self.learner.features(self.settings.text_chunk, self.mine)

    def all_names(self, mine: Tensor) -> Tensor:
        """Features of all names from the workers' stretches, float32 [C, d], without gradient."""
        return joined_rows(mine, self.mine.start, len(self.learner), self.world_size)

    @torch.no_grad()
    def names(self) -> Tensor:
        """Features of all names with the present context, float32 [C, d]."""
        return self.all_names(self.my_names())

    def classes(self, names: Tensor) -> ClassFeatures:
        """The same as the text side of a classifier."""
        return ClassFeatures(self.data.names, names.cpu().numpy(), self.clip.logit_scale)

    def parts(self, rows: Tensor) -> list[Tensor]:
        """Few enough rows at a time that their logits over all names stay small; no empty part."""
        size = max(1, LOGITS_AT_ONCE // len(self.learner))
        return [rows[at : at + size] for at in range(0, len(rows), size)]

    def logits(self, rows: Tensor, names: Tensor, views: Tensor | None = None) -> Tensor:
        """fp32 [n, C]: scaled cosines of images (a view of each, or the plain one) and names."""
        images = self.data.features[rows, 0 if views is None else views[rows]].float()
        return self.clip.logit_scale * images @ names.T

    def weights(self, names: Tensor) -> Tensor:
        """PRODEN's weights of all of this worker's images: float32 [n, K]."""
        return self._weights(names, lambda logits, targets: objective.disambiguated(logits, targets.label_ids))

    def updated_weights(self, names: Tensor) -> Tensor:
        """What the configured loss learns from next, of all of this worker's images: float32 [n, K]."""
        return self._weights(names, lambda logits, targets: objective.updated_weights(self.settings, logits, targets))

    @torch.no_grad()
    def _weights(self, names: Tensor, rule: Callable[[Tensor, objective.Targets], Tensor]) -> Tensor:
        weights = torch.empty_like(self.data.weights)
        for part in self.parts(torch.arange(len(self.data), device=names.device)):
            targets = objective.Targets(self.data.label_ids[part], self.data.weights[part], self.data.own[part])
            weights[part] = rule(self.logits(part, names), targets)
        return weights

    @torch.no_grad()
    def candidate_loss(self, chosen: npt.NDArray[np.bool_], names: Tensor) -> float:
        """Mean over the chosen images of all workers (bool, by position) of −log p(some candidate)."""
        here = np.flatnonzero(chosen[self.data.first : self.data.first + len(self.data)])
        total = torch.zeros((), device=names.device)
        for part in self.parts(torch.from_numpy(here).to(names.device)):
            total += objective.candidate_loss(self.logits(part, names), self.data.label_ids[part]) * len(part)
        return float(sum_over_workers(total, self.world_size)) / int(chosen.sum())

    def all_weights(self, mine: Tensor) -> Tensor:
        """The candidate weights of all images from the workers' shares: float32 [N, K]."""
        return joined_rows(mine, self.data.first, self.data.total, self.world_size)


def _start(settings: Near, clip: ClipModel) -> Tensor:
    tower = TextTower.of(clip.network)
    if settings.context_init is None:
        return random_context(tower, settings.context_length, settings.seed)
    return phrase_context(tower, clip.tokenizer, settings.context_init)
