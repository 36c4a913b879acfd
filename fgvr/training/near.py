"""NeaR: context vectors learned on candidate sets, in plain PyTorch (CoOp with PRODEN or another partial-label loss).

The image tower is frozen, so its features are read from the embeddings table and a step costs one pass of the names
through the text tower, whatever the number of images. Workers share both sides: each holds a stretch of the images
and encodes a stretch of the names; a step on n workers is the step of one worker up to rounding. Order and views
follow from (seed, epoch) alone, so training resumes exactly from any step (bit-equal on a CPU with the same threads).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fgvr.clip.classifier import ClassFeatures, NearModel
from fgvr.clip.model import load_clip
from fgvr.training import near_objective as objective
from fgvr.training.collective import sum_over_workers
from fgvr.training.near_data import NearData, NearJob, NearTrainingError, read_near_data
from fgvr.training.near_schedule import (
    Positions,
    epoch_steps,
    epoch_views,
    held_out,
    learning_rate,
    steps_per_epoch,
)
from fgvr.training.near_scores import NearScores
from fgvr.training.near_state import NearState, Outcome
from fgvr.training.near_step import backward_through_names
from fgvr.training.reporter import Reporter

log = logging.getLogger(__name__)

RECIPE = 1
"""Raised when the same settings and tables come to train another model."""
REPORTS = 50  # at most about so many in a training


Judge = Callable[[ClassFeatures], dict[str, float]]


def train_near(job: NearJob, reporter: Reporter, judge: Judge | None = None) -> None:
    """Train to the last epoch, from the reporter's checkpoint if it has one; see `near_state` for what that holds.

    Args:
        job: what to train, and on what.
        reporter: whom to tell.
        judge: measures the classes as they are at every report; its numbers are reported with the others.

    Raises:
        NearTrainingError: nothing to learn from, or the loss is not a number any more.
        ClipError, UnsupportedTextTowerError: the CLIP cannot be had, or not be prompted.
    """
    training = _Training(job, read_near_data(job, reporter.rank, reporter.world_size), reporter, judge)
    for step in range(training.state.step, training.last_step):
        training.step(step)
    training.finish()


class _Training:
    """One worker's side of a training."""

    def __init__(self, job: NearJob, data: NearData, reporter: Reporter, judge: Judge | None) -> None:
        self.judge = judge
        self.settings, self.reporter, self.device = job.settings, reporter, reporter.device
        self.data = data.to(self.device)
        clip = load_clip(job.clip, self.device)
        self.scores = NearScores(job.settings, clip, self.data, reporter.rank, reporter.world_size)
        self.learner = self.scores.learner
        self.optimiser = torch.optim.SGD(
            [self.learner.context],
            lr=job.settings.lr,
            momentum=job.settings.momentum,
            weight_decay=job.settings.weight_decay,
        )
        self.weights = self.data.weights.clone()
        self.held_out = held_out(job.settings, data.total)
        self.learned = np.flatnonzero(~self.held_out)
        self.steps_per_epoch = steps_per_epoch(job.settings, len(self.learned))
        self.last_step = self.steps_per_epoch * job.settings.epochs
        self.state = NearState.start(self.learner.context)
        self._resume()
        self._plan: tuple[int, list[Positions], Tensor] | None = None
        self._started, self._steps_here = time.monotonic(), 0

    def _resume(self) -> None:
        folder = self.reporter.resume_folder()
        if folder is None:
            return
        self.state, weights = NearState.load(folder, self.optimiser)
        with torch.no_grad():
            self.learner.context.copy_(self.state.context)
        self.weights = weights[self.data.first : self.data.first + len(self.data)].to(self.device)

    def step(self, step: int) -> None:
        """One update of the context, and what is due after it: held-out loss, report, checkpoint."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.settings, epoch)
        steps, views = self._epoch_plan(epoch)
        positions = steps[batch]
        mine = positions[(positions >= self.data.first) & (positions < self.data.first + len(self.data))]
        rows = torch.from_numpy(mine - self.data.first).to(self.device)
        loss = self._update(rows, views, len(positions), learn_weights=epoch >= self.settings.frozen_epochs)
        self.state.add_loss(loss)
        self.state.step, self._steps_here = step + 1, self._steps_here + 1
        if batch + 1 == self.steps_per_epoch:
            self._end_epoch(epoch)
        self._report(step, epoch)

    def _epoch_plan(self, epoch: int) -> tuple[list[Positions], Tensor]:
        """The epoch's steps over all workers, and the view of each of this worker's images."""
        if self._plan is None or self._plan[0] != epoch:
            views = epoch_views(self.settings, self.data.total, self.data.features.shape[1], epoch)
            mine = views[self.data.first : self.data.first + len(self.data)]
            steps = epoch_steps(self.settings, self.learned, epoch)
            self._plan = epoch, steps, torch.from_numpy(mine).to(self.device)
        return self._plan[1:]

    def _update(self, rows: Tensor, views: Tensor, step_images: int, *, learn_weights: bool) -> Tensor:
        """Gradient step on this worker's `rows` of a step of `step_images`; returns its part of the mean loss."""
        self.optimiser.zero_grad(set_to_none=True)

        def loss(part: Tensor, names: Tensor) -> Tensor:
            logits = self.scores.logits(part, names, views)
            targets = objective.Targets(self.data.label_ids[part], self.weights[part], self.data.own[part])
            term = objective.loss(self.settings, logits, targets) * (len(part) / step_images)
            if learn_weights and self.settings.loss in objective.STEPWISE:
                self.weights[part] = objective.updated_weights(self.settings, logits, targets)
            return term

        total = backward_through_names(
            self.learner,
            self.scores.my_names(),
            self.scores.parts(rows),
            loss,
            rank=self.reporter.rank,
            world_size=self.reporter.world_size,
        )
        self.optimiser.step()
        return total

    def _end_epoch(self, epoch: int) -> None:
        refresh = self.settings.loss == "rc" and epoch >= self.settings.frozen_epochs
        if not refresh and not self.held_out.any():
            return
        names = self.scores.names()
        if refresh:
            self.weights = self.scores.updated_weights(names)
        if self.held_out.any():
            self.state.validated(self.scores.candidate_loss(self.held_out, names), self.learner.context)

    def _report(self, step: int, epoch: int) -> None:
        """Metrics about `REPORTS` times a training, a checkpoint every `checkpoint_steps`; all workers agree when."""
        done = step + 1
        save = done % self.settings.checkpoint_steps == 0
        # `finish` reports the last step.
        if done == self.last_step or not (save or done % max(1, self.last_step // REPORTS) == 0):
            return
        metrics = self._metrics(epoch)
        weights = self.scores.all_weights(self.weights) if save else None
        self.reporter.report(metrics, None if weights is None else lambda folder: self._save(folder, weights))

    def _metrics(self, epoch: int) -> dict[str, float]:
        loss = self.state.take_loss(lambda total: sum_over_workers(total, self.reporter.world_size))
        if not math.isfinite(loss):
            raise NearTrainingError(f"near: the loss is {loss} after epoch {epoch + 1}; lower near.lr or near.momentum")
        seconds = max(time.monotonic() - self._started, 1e-9)
        metrics = {
            "epoch": self.state.step / self.steps_per_epoch,  # done, whole only at the end of one
            "step": float(self.state.step),
            "loss": loss,
            "learning_rate": learning_rate(self.settings, epoch),
            "steps_per_second": self._steps_here / seconds,
        }
        if self.state.held_out_loss is not None:
            metrics["held_out_loss"] = self.state.held_out_loss
        if self.judge is not None:
            metrics |= self.judge(self.scores.classes(self.scores.names()))
        self.state.history.append(metrics)
        return metrics

    def _save(self, folder: Path, weights: Tensor) -> None:
        self.state.save(folder, self.learner.context, self.optimiser, weights)

    def finish(self) -> None:
        """Report the chosen context (best on held-out images, else the last) as a model with its weights."""
        # A training that was finished before has no step to report.
        metrics = self._metrics(self.settings.epochs - 1) if self._steps_here else self.state.history[-1]
        training_weights = self.scores.all_weights(self.weights)
        last = self.learner.context.detach().clone()
        with torch.no_grad():
            self.learner.context.copy_(self.state.chosen(last))
        names = self.scores.names()
        outcome = Outcome(
            model=NearModel(
                classes=self.scores.classes(names),
                context=self.learner.context,
                clip=self.scores.clip.source,
                facts={
                    "recipe": self.settings.model_dump(mode="json"),
                    "metrics": metrics,
                    "shortened_names": self.scores.shortened,
                },
            ),
            weights=self.scores.all_weights(self.scores.weights(names)).cpu(),
        )
        with torch.no_grad():
            self.learner.context.copy_(last)

        def save(folder: Path) -> None:
            self._save(folder, training_weights)
            outcome.save(folder)

        self.reporter.report(metrics, save)
