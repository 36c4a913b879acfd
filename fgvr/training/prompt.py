"""NeaR: context vectors learned on candidate sets, in plain PyTorch (CoOp with PRODEN or another partial-label loss).

The image tower is frozen, so its features are read from the embeddings table, and a step costs one pass of the names
through the text tower, for any number of images. Workers split both sides: each holds a contiguous share of the images
and encodes a contiguous share of the names; a step on n workers equals the step of one worker up to rounding. Order and
views depend only on (seed, epoch), so training resumes exactly from any step (bit-equal on a CPU with the same
threads).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fgvr.clip.model import load_clip
from fgvr.config import Near
from fgvr.models.near import ClassFeatures, NearModel
from fgvr.training import batches
from fgvr.training.batches import Positions
from fgvr.training.checkpoint import History
from fgvr.training.loop import Mean, Pace, Term, Trainer, train
from fgvr.training.prompt_data import NearJob, NearState, NearTrainingError, Outcome, read_near_data
from fgvr.training.prompt_refinement import refinement
from fgvr.training.prompt_scores import STEPWISE, NearScores, Targets, backward_through_names, loss
from fgvr.training.reporter import Reporter

RECIPE = 1
"""Increase it when the same settings and tables would train another model."""
REPORTS = 50  # about this many reports per training run at most
WARMUP_RATE = 1e-5  # CoOp's constant warm-up

Judge = Callable[[ClassFeatures], dict[str, float]]


def train_near(job: NearJob, reporter: Reporter, judge: Judge | None = None) -> History:
    """Train to the last epoch, starting from the reporter's checkpoint if there is one; returns the reported metrics.

    Args:
        job: what to train, and on what.
        reporter: receives metrics and checkpoints.
        judge: measures the current classes at every report; its numbers are reported with the others.

    Raises:
        NearTrainingError: nothing to learn from, or the loss became NaN or infinite.
        ClipError, UnsupportedTextTowerError: the CLIP cannot be had, or its prompts cannot be learned.
    """
    return train(NearTrainer(job, reporter, judge))


@dataclass(frozen=True)
class NearBatch:
    """A step over all workers, and which cached view each of this worker's images shows in this epoch."""

    step_positions: Positions
    views: Tensor


class NearTrainer(Trainer[NearBatch]):
    """One worker's side of a training run.

    A checkpoint holds `state.pt` (context, optimiser, candidate weights of all images, what the loss keeps beside them,
    steps done, the best context so far) and `history.json`; the last one also `model/` (fgvr.models.near.NearModel) and
    `weights.npy` (the disambiguated weights, float32 [N, K] in the order of the images with candidates).
    """

    def __init__(self, job: NearJob, reporter: Reporter, judge: Judge | None = None) -> None:
        super().__init__(job.settings, reporter)
        self.settings, self.judge = job.settings, judge
        data = read_near_data(job, reporter.rank, reporter.world_size)
        self.data = data.to(self.device)
        clip = load_clip(job.clip, self.device)
        self.scores = NearScores(job.settings, clip, self.data, reporter.rank, reporter.world_size)
        self.learner = self.scores.learner
        self.optimiser = self.sgd([self.learner.context])
        self.held_out = held_out(job.settings, data.total)
        self.refinement = refinement(job.settings, self.scores, ~self.held_out)
        self.weights = self.refinement.start(self.data.weights.clone())
        self.learned = np.flatnonzero(~self.held_out)
        self.steps = batches.steps_per_epoch(len(self.learned), job.settings.batch_size)
        self.last_step = self.steps * job.settings.epochs
        self.state = NearState.start(self.learner.context)
        resumed = reporter.resume_folder()
        if resumed is not None:
            self._restore(resumed)

    @property
    def done(self) -> int:
        """Number of steps made in the whole run."""
        return self.epoch * self.steps + self.batch

    def batches(self, epoch: int) -> Iterator[NearBatch]:
        """See Trainer."""
        views = epoch_views(self.settings, self.data.total, self.data.features.shape[1], epoch)
        mine = torch.from_numpy(views[self.data.first : self.data.first + len(self.data)]).to(self.device)
        for positions in epoch_steps(self.settings, self.learned, epoch)[self.batch :]:
            yield NearBatch(positions, mine)

    def rate(self, epoch: int, batch: int) -> float:
        """See Trainer."""
        return learning_rate(self.settings, epoch)

    def due(self, epoch: int, batch: int) -> tuple[bool, bool]:
        """See Trainer: metrics about `REPORTS` times per run, a checkpoint every `checkpoint_steps`."""
        done = epoch * self.steps + batch + 1
        return done % max(1, self.last_step // REPORTS) == 0, done % self.settings.checkpoint_steps == 0

    def learn(self, batch: NearBatch) -> Mapping[str, Mean]:
        """See Trainer: the gradient is computed in parts, and candidate weights follow from the new predictions."""
        self.optimiser.zero_grad(set_to_none=True)
        means = self.losses(batch)
        self.optimiser.step()
        return means

    def losses(self, batch: NearBatch) -> Mapping[str, Mean]:
        """See Trainer; also sets the gradient of the context."""
        positions, first = batch.step_positions, self.data.first
        mine = positions[(positions >= first) & (positions < first + len(self.data))]
        rows = torch.from_numpy(mine - first).to(self.device)
        learns_weights = self.epoch >= self.settings.frozen_epochs and self.settings.loss in STEPWISE
        self.refinement.before_step(rows, batch.views, len(positions))

        def part_loss(part: Tensor, names: Tensor) -> Tensor:
            logits = self.scores.logits(part, names, batch.views)
            targets = Targets(self.data.label_ids[part], self.weights[part], self.data.own[part])
            term = loss(self.settings, logits, targets) * (len(part) / len(positions))
            if learns_weights:
                self.weights[part] = self.refinement.updated(logits, targets, names)
            return term

        total = backward_through_names(
            self.learner,
            self.scores.my_names(),
            self.scores.parts(rows),
            part_loss,
            rank=self.reporter.rank,
            world_size=self.reporter.world_size,
        )
        # The workers' parts add up to the step's mean; the mean over the steps is reported.
        return {"loss": Term(total, 1 / self.reporter.world_size, count=1)}

    def end_epoch(self, epoch: int) -> None:
        """See Trainer: refines or refreshes weights, and keeps the context if it is the best on held-out images."""
        self.weights = self.refinement.end_epoch(epoch, self.weights)
        refresh = self.settings.loss == "rc" and epoch >= self.settings.frozen_epochs
        if not refresh and not self.held_out.any():
            return
        names = self.scores.names()
        if refresh:
            self.weights = self.scores.updated_weights(names)
        if self.held_out.any():
            self.state.validated(self.scores.candidate_loss(self.held_out, names), self.learner.context)

    def measures(self, pace: Pace) -> dict[str, float]:
        """See Trainer."""
        numbers = {"step": float(self.done), "steps_per_second": pace.steps / pace.seconds}
        numbers |= self.refinement.measures()
        if self.state.held_out_loss is not None:
            numbers["held_out_loss"] = self.state.held_out_loss
        if self.judge is not None:
            numbers |= self.judge(self.scores.classes(self.scores.names()))
        return numbers

    def diverged(self, loss: float, epoch: int) -> NearTrainingError:
        """See Trainer."""
        return NearTrainingError(f"near: the loss is {loss} after epoch {epoch + 1}; lower near.lr or near.momentum")

    def checkpoint(self, *, last: bool) -> Callable[[Path], None]:
        """See Trainer; the last one also holds the model and its weights."""
        weights, kept = self.scores.all_weights(self.weights), self.refinement.state()
        outcome = self._outcome() if last else None

        def save(folder: Path) -> None:
            self.state.step, self.state.history = self.done, self.history
            self.state.save(folder, self.learner.context, self.optimiser, weights, kept)
            if outcome is not None:
                outcome.save(folder)

        return save

    def _outcome(self) -> Outcome:
        """The result for the chosen context: the best on held-out images, else the last."""
        context = self.learner.context
        trained = context.detach().clone()
        with torch.no_grad():
            context.copy_(self.state.chosen(trained))
        names = self.scores.names()
        outcome = Outcome(
            model=NearModel(
                classes=self.scores.classes(names),
                context=context.detach().clone(),
                clip=self.scores.clip.source,
                facts={
                    "recipe": self.settings.model_dump(mode="json"),
                    "metrics": self.history[-1],
                    "shortened_names": self.scores.shortened,
                },
            ),
            weights=self.scores.all_weights(self.refinement.final(names)).cpu(),
        )
        with torch.no_grad():
            context.copy_(trained)
        return outcome

    def _restore(self, folder: Path) -> None:
        self.state, weights, kept = NearState.load(folder, self.optimiser)
        self.refinement.restore(kept)
        with torch.no_grad():
            self.learner.context.copy_(self.state.context)
        self.weights = weights[self.data.first : self.data.first + len(self.data)].to(self.device)
        self.epoch, self.batch = divmod(self.state.step, self.steps)
        self.history = self.state.history


def learning_rate(settings: Near, epoch: int) -> float:
    """The rate of an epoch, counted from 0: `warmup_epochs` at 1e-5, then a cosine from `lr` to 0.

    As in CoOp (Dassl's ConstantWarmupScheduler over CosineAnnealingLR), but with the cosine over the remaining epochs.
    """
    warmup = min(settings.warmup_epochs, settings.epochs - 1)
    if epoch < warmup:
        return min(WARMUP_RATE, settings.lr)
    done = (epoch - warmup) / (settings.epochs - warmup)
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * done))


def held_out(settings: Near, images: int) -> npt.NDArray[np.bool_]:
    """Bool [images]: images that are held out to choose the best epoch; at least one image is left for training."""
    count = min(round(settings.validation_share * images), images - 1)
    held = np.zeros(images, dtype=bool)
    held[np.random.default_rng((settings.seed, 2**32)).permutation(images)[:count]] = True
    return held


def epoch_steps(settings: Near, positions: Positions, epoch: int) -> list[Positions]:
    """The batches of an epoch over all workers, as for a student; a single batch of all images keeps their order."""
    if len(positions) <= settings.batch_size:
        return [positions]
    return batches.epoch_steps(positions, settings.batch_size, settings.seed, epoch)


def epoch_views(settings: Near, images: int, views: int, epoch: int) -> npt.NDArray[np.int64]:
    """Which cached view each image shows in an epoch: int64 [images]."""
    return np.random.default_rng((settings.seed, epoch, views)).integers(0, views, images)
