"""The loop that every training runs: named losses, rates, means over all workers, reports and checkpoints.

A trainer says what a step learns from; `train` does what all trainings have in common. So a new way to train is a
subclass of a trainer, or one more `LossTerm` of it, and a line: `train(MyTrainer(job, reporter))`.

Weights, order and augmentation follow from the seed, batch sizes count over all workers, and every loss is a mean over
the whole step: n workers learn what one would (but for batch normalisation, whose statistics are each worker's own).
Rates are pure functions of the step, so a resumed training has no schedule to restore.
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
from fgvr.losses.makd import mean
from fgvr.training.checkpoint import History
from fgvr.training.reporter import Reporter, sum_over_workers


@dataclass(frozen=True)
class Mean:
    """One worker's part of a mean over what all workers see between two reports.

    Attributes:
        total: sum over this worker's targets of the step, a scalar.
        seen: how many these are.
    """

    total: Tensor
    seen: Tensor | float


@dataclass(frozen=True)
class Term(Mean):
    """One loss of one step.

    Attributes:
        count: what `total` is divided by to be learned from: the targets of the whole step, over all workers. Every
            worker must know it, so it counts what others could not read, too, unlike the sum of all `seen`.
        weight: of this mean in the step's loss.
    """

    count: int
    weight: float = 1.0

    def learned(self) -> Tensor:
        """This worker's part of the weighted mean; 0 where the step has no target."""
        return self.weight * mean(self.total, torch.tensor(self.count))


Seen_contra = TypeVar("Seen_contra", contravariant=True)


class LossTerm(Protocol[Seen_contra]):
    """A loss by its name, of whatever a trainer lets its terms see of a step."""

    @property
    def name(self) -> str:
        """The key of its mean in `history.json`, in MLflow and on the console: `class_loss`, `consistency_loss` …"""
        ...

    def __call__(self, step: Seen_contra) -> Term:
        """This worker's part of the step; a term without a target there, too, as all workers must have the same."""
        ...


class Recipe(Protocol):
    """The settings that all trainings have; a part of the config is one."""

    @property
    def epochs(self) -> int:
        """Passes over the images."""

    @property
    def seed(self) -> int:
        """Of all that is drawn at random."""

    @property
    def lr(self) -> float:
        """Learning rate of SGD at its peak."""

    @property
    def momentum(self) -> float:
        """Of SGD."""

    @property
    def weight_decay(self) -> float:
        """Of SGD."""


class EpochRecipe(Recipe, Protocol):
    """Those of trainings that report and keep checkpoints at the ends of epochs; see `learning_rate`."""

    @property
    def warmup_epochs(self) -> float:
        """Epochs in which the rate rises to its peak."""

    @property
    def schedule(self) -> Literal["milestones", "cosine"]:
        """How it falls then."""

    @property
    def milestones(self) -> tuple[int, ...]:
        """Epochs after which it is a tenth."""

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
    """What was trained between two reports: steps, images over all workers, and the seconds spent on them."""

    steps: int
    images: int
    seconds: float


B = TypeVar("B", bound=StepBatch)


class Trainer(ABC, Generic[B]):
    """One worker's side of a training; `train` runs it.

    Args:
        recipe: the settings that all trainings have.
        reporter: of this worker.

    Attributes that a subclass sets as it is made:
        optimiser: of the weights; `sgd` makes the recipe's.
        steps: of an epoch.
        clip_norm: bound of the gradient's norm; None: none.
        history: what was reported, in earlier sessions, too.
        epoch: where the training goes on, counted from 0; as many as the recipe has where it is at its end.
        batch: likewise, the step of that epoch.
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
        """This worker's shares of the epoch's steps, from step `self.batch` on."""

    @abstractmethod
    def losses(self, batch: B) -> Mapping[str, Mean]:
        """A step's losses by name, and means that are only reported; the same names in every step of every worker."""

    @abstractmethod
    def rate(self, epoch: int, batch: int) -> float:
        """The learning rate of a step."""

    @abstractmethod
    def due(self, epoch: int, batch: int) -> tuple[bool, bool]:
        """Whether to report after a step, and whether with a checkpoint. (The last step has both.)"""

    @abstractmethod
    def checkpoint(self, *, last: bool) -> Callable[[Path], None]:
        """What writes a checkpoint into an empty folder, on one worker; this here is called by all of them.

        Args:
            last: of a training that is at its end.
        """

    @abstractmethod
    def diverged(self, loss: float, epoch: int) -> UserError:
        """What to say of a loss that is no number any more."""

    def end_epoch(self, epoch: int) -> None:
        """What is due behind the last step of an epoch, before it is reported: validation, say."""

    def measures(self, pace: Pace) -> dict[str, float]:
        """What is reported beside losses, epoch and rate."""
        return {"images_per_second": pace.images / pace.seconds}

    def record(self, metrics: dict[str, float]) -> None:
        """Keep what is about to be reported."""
        self.history.append(metrics)

    def learn(self, batch: B) -> Mapping[str, Mean]:
        """One step of the optimiser; returns what `losses` said."""
        means = self.losses(batch)
        loss = reduce(add, [part.learned() for part in means.values() if isinstance(part, Term)])
        self.optimiser.zero_grad(set_to_none=True)
        # DDP averages the workers' gradients, of which each is that of a part of the step's mean.
        torch.autograd.backward(loss * self.reporter.world_size)
        if self.clip_norm is not None:
            learned = [weight for group in self.optimiser.param_groups for weight in group["params"]]
            nn.utils.clip_grad_norm_(learned, self.clip_norm)
        self.optimiser.step()
        return means

    def sgd(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of the recipe."""
        recipe = self.recipe
        return torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


class EpochTrainer(Trainer[B]):
    """A trainer that reports at the ends of epochs, and whose rate follows a schedule."""

    recipe: EpochRecipe

    def rate(self, epoch: int, batch: int) -> float:
        """See Trainer."""
        return learning_rate(self.recipe, epoch * self.steps + batch, self.steps)

    def due(self, epoch: int, batch: int) -> tuple[bool, bool]:
        """See Trainer."""
        ended = batch + 1 == self.steps
        return ended, ended and (epoch + 1) % self.recipe.checkpoint_epochs == 0


def train(trainer: Trainer[B]) -> History:
    """Train to the last epoch; returns what was reported, in earlier sessions, too.

    Reports and checkpoints go to the trainer's reporter. A resumed training goes on with the same batches and rates
    (bit-equal on a CPU with the same number of threads).

    Raises:
        UserError: the loss is no number any more, or what the trainer raises.
    """
    epochs, reporter = trainer.recipe.epochs, trainer.reporter
    if trainer.epoch >= epochs:  # it died after its last checkpoint: only the report is missing
        reporter.report(trainer.history[-1], trainer.checkpoint(last=True))
    since = _SinceReport(reporter.world_size)
    while trainer.epoch < epochs:
        epoch, steps = trainer.epoch, trainer.steps
        torch.manual_seed(hash((trainer.recipe.seed, epoch, reporter.rank)))  # dropout, sampled boxes and the like
        since.go_on()
        for batch in trainer.batches(epoch):
            number, rate = trainer.batch, trainer.rate(epoch, trainer.batch)
            for group in trainer.optimiser.param_groups:
                group["lr"] = rate
            since.add(trainer.learn(batch), len(batch.step_positions))
            reports, keeps = trainer.due(epoch, number)
            trainer.batch = number + 1
            if trainer.batch == steps:
                since.pause()
                trainer.end_epoch(epoch)
                trainer.epoch, trainer.batch = epoch + 1, 0
            last = trainer.epoch == epochs
            if not (reports or keeps or last):
                continue
            since.pause()
            loss, means, pace = since.take()
            if not math.isfinite(loss):
                raise trainer.diverged(loss, epoch)
            done = (epoch * steps + number + 1) / steps  # whole only at the end of an epoch
            metrics = {"epoch": done, "loss": loss} | means | {"learning_rate": rate} | trainer.measures(pace)
            trainer.record(metrics)
            reporter.report(metrics, trainer.checkpoint(last=last) if keeps or last else None)
            since.go_on()
        if trainer.epoch == epoch:  # it would begin the same epoch again, for ever
            raise ValueError(f"epoch {epoch + 1} ended after {trainer.batch} of {steps} steps")
    return trainer.history


class _SinceReport:
    """Sums over the steps since the last report, and the time that they took.

    They stay on the device: to read them in every step would make the CPU wait for it.
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
        """A step of so many images over all workers."""
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

    def go_on(self) -> None:
        """The clock runs."""
        self._began = time.monotonic()

    def pause(self) -> None:
        """The clock stands: what follows is not training."""
        if self._began is not None:
            self.seconds, self._began = self.seconds + time.monotonic() - self._began, None

    def take(self) -> tuple[float, dict[str, float], Pace]:
        """The weighted loss, each mean by its name, and the pace; all workers call it. It begins anew then."""
        if self.sums is None:
            raise ValueError("no step was made since the last report")
        sums = sum_over_workers(self.sums, self.world_size).tolist()
        totals, seen = sums[: len(self.names)], sums[len(self.names) :]
        means = {name: total / max(count, 1) for name, total, count in zip(self.names, totals, seen, strict=True)}
        loss = sum(weight * means[name] for name, weight in self.weights.items())
        pace = Pace(self.steps, self.images, max(self.seconds, 1e-9))
        self.sums, self.steps, self.images, self.seconds = None, 0, 0, 0.0
        return loss, means, pace


def learning_rate(settings: EpochRecipe, step: int, steps_per_epoch: int) -> float:
    """The rate of a step, counted from 0 over the whole training.

    Linear warm-up over `warmup_epochs` (its last step has the full rate); then `milestones` divides by ten after each
    of these epochs, as `torch.optim.lr_scheduler.MultiStepLR`; `cosine` falls to zero at the end of the last epoch
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
