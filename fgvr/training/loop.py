"""The loop that every training run goes through: named losses, learning rates, reports, checkpoints, resumption.

A trainer says what a step learns from; `train` does what all training runs have in common. So a new way to train is a
subclass of a trainer, or one more `LossTerm` in it, and a line: `train(MyTrainer(job, reporter))`.

Weights, order and augmentation follow from the seed, batch sizes count over all workers, and every loss is a mean over
the whole step: n workers learn what one would (except for batch normalisation, whose statistics are each worker's own).
Learning rates are pure functions of the step, so a resumed run has no schedule to restore.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fgvr.errors import UserError
from fgvr.training.checkpoint import History
from fgvr.training.reporter import Reporter, sum_over_workers


@dataclass(frozen=True)
class Mean:
    """One worker's part of a mean that is reported: over all workers, and over all steps since the last report.

    Attributes:
        total: sum over this worker's targets of one step, a scalar.
        seen: number of these targets.
    """

    total: Tensor
    seen: Tensor | float


@dataclass(frozen=True)
class Term(Mean):
    """One loss of one step.

    Attributes:
        count: what `total` is divided by in the step's loss: the number of targets of the whole step, over all workers.
            Each worker computes it from data that all have, so unlike `seen` it includes images that another worker
            turns out to be unable to read. Where images count differently, the sum of their weights.
        weight: factor of this mean in the step's loss.
    """

    count: float
    weight: float = 1.0

    def learned(self) -> Tensor:
        """This worker's part of the weighted mean, with its gradient; 0 if the step has no target."""
        return self.weight * (self.total / self.count if self.count > 0 else self.total)


Seen_contra = TypeVar("Seen_contra", contravariant=True)


class LossTerm(Protocol[Seen_contra]):
    """A loss with a name; its argument is what the trainer shows of a step (a `StudentStep` for students)."""

    @property
    def name(self) -> str:
        """The key of its mean in `history.json`, in MLflow and on the console: `class_loss`, `consistency_loss` …"""
        ...

    def __call__(self, step: Seen_contra) -> Term:
        """This worker's part of the loss. Every worker returns a term in every step, if need be with a total of 0."""
        ...


class Recipe(Protocol):
    """Settings that every training run has; parts of the config such as `Makd` fulfil it."""

    @property
    def epochs(self) -> int:
        """Passes over the images."""

    @property
    def seed(self) -> int:
        """Seed of everything that is drawn at random."""

    @property
    def lr(self) -> float:
        """Peak learning rate."""

    @property
    def momentum(self) -> float:
        """Momentum of SGD."""

    @property
    def weight_decay(self) -> float:
        """L2 penalty of SGD."""


class EpochRecipe(Recipe, Protocol):
    """Settings of a run that reports and saves checkpoints at the ends of epochs; see `learning_rate`."""

    @property
    def warmup_epochs(self) -> float:
        """Epochs of linear warm-up to the peak rate."""

    @property
    def schedule(self) -> Literal["milestones", "cosine"]:
        """How the rate falls after the warm-up."""

    @property
    def milestones(self) -> tuple[int, ...]:
        """Epochs after each of which the rate is divided by ten."""

    @property
    def checkpoint_epochs(self) -> int:
        """Epochs between checkpoints."""


class StepBatch(Protocol):
    """What the loop itself sees of a batch."""

    @property
    def step_positions(self) -> npt.NDArray[np.int64]:
        """Positions of the images of the whole step, over all workers."""
        ...


@dataclass(frozen=True)
class Pace:
    """Throughput since the last report: steps, images over all workers, seconds without validation and reports."""

    steps: int
    images: int
    seconds: float


B = TypeVar("B", bound=StepBatch)


class Trainer(ABC, Generic[B]):
    """One worker's side of a training run; `train` drives it.

    Args:
        recipe: the settings that every run has.
        reporter: this worker's reporter.

    Attributes that a subclass sets in its constructor:
        optimiser: updates the weights; `sgd` makes the one that the recipe describes. A group's `lr_scale` is its
            factor of the learning rate.
        steps: steps per epoch; it may change in `end_epoch`.
        clip_norm: upper bound of the gradient's norm; None: no bound.
        history: all metrics reported so far, earlier sessions included.
        epoch: epoch in which to continue, counted from 0; `recipe.epochs` if the run is complete.
        batch: step of that epoch at which to continue.
    """

    optimiser: torch.optim.Optimizer
    steps: int
    clip_norm: float | None = None

    def __init__(self, recipe: Recipe, reporter: Reporter) -> None:
        self.recipe, self.reporter, self.device = recipe, reporter, reporter.device
        self.history: History = []
        self.epoch = self.batch = 0

    @abstractmethod
    def batches(self, epoch: int) -> Iterable[B]:
        """This worker's share of each of the epoch's steps, beginning with step `self.batch`."""

    @abstractmethod
    def losses(self, batch: B) -> Mapping[str, Mean]:
        """The step's losses (`Term`) and further means to report, by name: the same names in every step and worker."""

    @abstractmethod
    def rate(self, epoch: int, batch: int) -> float:
        """The learning rate of a step."""

    @abstractmethod
    def due(self, epoch: int, batch: int) -> tuple[bool, bool]:
        """Whether to report after this step, and whether to save a checkpoint. The very last step always does both."""

    @abstractmethod
    def checkpoint(self, *, last: bool) -> Callable[[Path], None]:
        """A function that writes a checkpoint into an empty folder.

        All workers call this method, so it may gather from them; one of them calls the function.

        Args:
            last: whether the run is complete.
        """

    @abstractmethod
    def diverged(self, loss: float, epoch: int) -> UserError:
        """The error to raise when the loss is NaN or infinite."""

    def end_epoch(self, epoch: int) -> None:
        """Called after the last step of an epoch and before its report, e.g. for validation."""

    def measures(self, pace: Pace) -> dict[str, float]:
        """Metrics to report besides epoch, losses and learning rate."""
        return {"images_per_second": pace.images / pace.seconds}

    def record(self, metrics: dict[str, float]) -> None:
        """Called with all metrics right before they are reported."""
        self.history.append(metrics)

    def learn(self, batch: B) -> Mapping[str, Mean]:
        """Make one step of the optimiser; returns the result of `losses`."""
        means = self.losses(batch)
        loss = reduce(add, [part.learned() for part in means.values() if isinstance(part, Term)])
        self.optimiser.zero_grad(set_to_none=True)
        # Each worker has its part of a mean over the whole step, so the parts must be added; DDP averages them.
        torch.autograd.backward(loss * self.reporter.world_size)
        if self.clip_norm is not None:
            learned = [weight for group in self.optimiser.param_groups for weight in group["params"]]
            nn.utils.clip_grad_norm_(learned, self.clip_norm)
        self.optimiser.step()
        return means

    def sgd(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """SGD with the recipe's learning rate, momentum and weight decay."""
        recipe = self.recipe
        return torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


class EpochTrainer(Trainer[B]):
    """A trainer that reports at the ends of epochs and follows the recipe's learning-rate schedule."""

    recipe: EpochRecipe

    def rate(self, epoch: int, batch: int) -> float:
        """See Trainer."""
        return learning_rate(self.recipe, epoch * self.steps + batch, self.steps)

    def due(self, epoch: int, batch: int) -> tuple[bool, bool]:
        """See Trainer."""
        ended = batch + 1 == self.steps
        return ended, ended and (epoch + 1) % self.recipe.checkpoint_epochs == 0


def train(trainer: Trainer[B]) -> History:
    """Train up to the last epoch; returns all reported metrics, earlier sessions included.

    Reports and checkpoints go to the trainer's reporter. A resumed run continues with the same batches and learning
    rates (bit-equal on a CPU with the same number of threads).

    Raises:
        UserError: the loss is NaN or infinite (`Trainer.diverged`), or whatever the trainer raises.
    """
    epochs, reporter = trainer.recipe.epochs, trainer.reporter
    if trainer.epoch >= epochs:  # it died after its last checkpoint: only the report is missing
        reporter.report(trainer.history[-1], trainer.checkpoint(last=True))
    running = _RunningMeans(reporter.world_size)
    while trainer.epoch < epochs:
        epoch, steps = trainer.epoch, trainer.steps
        torch.manual_seed(hash((trainer.recipe.seed, epoch, reporter.rank)))  # dropout, sampled boxes and the like
        running.start()
        for batch in trainer.batches(epoch):
            number, rate = trainer.batch, trainer.rate(epoch, trainer.batch)
            for group in trainer.optimiser.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)  # by layers, where a trainer says so
            running.add(trainer.learn(batch), len(batch.step_positions))
            reports, keeps = trainer.due(epoch, number)
            trainer.batch = number + 1
            if trainer.batch == steps:
                running.stop()
                trainer.end_epoch(epoch)
                trainer.epoch, trainer.batch = epoch + 1, 0
            last = trainer.epoch == epochs
            if not (reports or keeps or last):
                continue
            running.stop()
            loss, means, pace = running.take()
            if not math.isfinite(loss):
                raise trainer.diverged(loss, epoch)
            done = (epoch * steps + number + 1) / steps  # whole only at the end of an epoch
            metrics = {"epoch": done, "loss": loss} | means | {"learning_rate": rate} | trainer.measures(pace)
            trainer.record(metrics)
            reporter.report(metrics, trainer.checkpoint(last=last) if keeps or last else None)
            running.start()
        if trainer.epoch == epoch:  # or the same epoch would begin again and again
            raise ValueError(f"epoch {epoch + 1} ended after {trainer.batch} of {steps} steps")
    return trainer.history


class _RunningMeans:
    """Sums over the steps since the last report, and the time these steps took.

    The sums stay on the device: reading them in every step would make the CPU wait for it.
    """

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.names: tuple[str, ...] = ()
        self.weights: dict[str, float] = {}
        self.sums: Tensor | None = None  # totals, then how many: float64 [2 · names]
        self.steps = self.images = 0
        self.seconds = 0.0
        self._began: float | None = None

    def add(self, means: Mapping[str, Mean], images: int) -> None:
        """Add a step; `images` counts over all workers."""
        parts = list(means.values())
        if self.sums is not None and self.names != tuple(means):
            raise ValueError(f"a step has the losses {list(means)}, the one before {list(self.names)}")
        self.names = tuple(means)
        # What is reported is weighted as in the last step: a weight that rises does so from epoch to epoch.
        self.weights = {name: part.weight for name, part in means.items() if isinstance(part, Term)}
        numbers = [part.total.detach().double() for part in parts]
        for part, number in zip(parts, list(numbers), strict=True):
            seen = part.seen
            # Filled on the device: a copy from the CPU would wait.
            numbers.append(seen.detach().double() if isinstance(seen, Tensor) else torch.full_like(number, seen))
        sums = torch.stack(numbers)
        self.sums = sums if self.sums is None else self.sums + sums
        self.steps, self.images = self.steps + 1, self.images + images

    def start(self) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def stop(self) -> None:
        """Stop the clock: what follows is not training."""
        if self._began is not None:
            self.seconds, self._began = self.seconds + time.monotonic() - self._began, None

    def take(self) -> tuple[float, dict[str, float], Pace]:
        """The weighted loss, the means by name, and the throughput; then start over. All workers must call it."""
        if self.sums is None:
            raise ValueError("no step was made since the last report")
        sums = sum_over_workers(self.sums, self.world_size).tolist()
        totals, seen = sums[: len(self.names)], sums[len(self.names) :]
        means = {
            name: total / count if count else 0.0 for name, total, count in zip(self.names, totals, seen, strict=True)
        }
        loss = sum(weight * means[name] for name, weight in self.weights.items())
        pace = Pace(self.steps, self.images, max(self.seconds, 1e-9))
        self.sums, self.steps, self.images, self.seconds = None, 0, 0, 0.0
        return loss, means, pace


def learning_rate(settings: EpochRecipe, step: int, steps_per_epoch: int) -> float:
    """The rate of a step, counted from 0 over the whole run.

    Linear warm-up over `warmup_epochs` (its last step has the full rate); then `milestones` divides by ten after each
    of these epochs, as `torch.optim.lr_scheduler.MultiStepLR` does; `cosine` falls to zero at the end of the last epoch
    (Loshchilov and Hutter 2017, without restarts).
    """
    warmup = settings.warmup_epochs * steps_per_epoch
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    if settings.schedule == "milestones":
        epoch = step // steps_per_epoch
        return settings.lr * 0.1 ** sum(epoch >= milestone for milestone in settings.milestones)
    total = settings.epochs * steps_per_epoch
    done = (step - warmup) / max(total - warmup, 1)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1)))
