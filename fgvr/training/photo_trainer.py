"""What the trainers of students and of encoders have in common: photos that can become unreadable during training, a
moving average of the weights, and what a checkpoint says beside them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fgvr.errors import UserError
from fgvr.training.averaging import MovingAverage, Weights
from fgvr.training.batches import Batch
from fgvr.training.checkpoint import (
    LOST_FILE,
    LeftOut,
    over_workers,
    read_history,
    read_lost,
    too_many,
    write_history,
    write_left_out,
)
from fgvr.training.loop import EpochRecipe, EpochTrainer, Mean
from fgvr.training.reporter import Reporter
from fgvr.training.run_images import RunImages


class PhotoTrainer(EpochTrainer[Batch]):
    """A trainer of a network of photos, which measures after every epoch and saves checkpoints between epochs.

    A checkpoint has `history.json`, `left_out.json` (images that could not be read at the start) and `lost.json` (those
    that became unreadable later), the last two by position in the examples, beside what the subclass saves.

    Attributes that a subclass sets in its constructor:
        data: the photos, opened.
        student: the network that learns.
        average: moving average of its weights, if there is one.
    """

    refused: ClassVar[type[UserError]]
    """The error of a training run that cannot go on."""
    data: RunImages[Any]
    student: nn.Module
    average: MovingAverage | None

    def __init__(self, recipe: EpochRecipe, reporter: Reporter, max_error_share: float) -> None:
        """`max_error_share`: allowed share of unreadable images; see `allowed_failures`."""
        super().__init__(recipe, reporter)
        self.max_error_share = max_error_share
        self.lost: LeftOut = {}
        self.lost_here: LeftOut = {}
        """Those that this worker found in this epoch."""

    @abstractmethod
    def measure(self) -> None:
        """Measure the student on the images that are held out; it has the weights of the average, if there is one."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write weights and state into an empty folder."""

    def learn(self, batch: Batch) -> Mapping[str, Mean]:
        """See Trainer; afterwards the moving average takes the weights in."""
        self.lost_here |= batch.failures
        means = super().learn(batch)
        if self.average is not None:
            self.average.update(self.student, len(batch.step_positions))
        return means

    def end_epoch(self, epoch: int) -> None:
        """Measure, and stop if too many images became unreadable during training."""
        self._share_statistics()
        with nullcontext() if self.average is None else self.average.in_place_of(self.student):
            self.measure()
        examples, lost = self.data.examples, over_workers(self.lost_here, self.reporter.world_size)
        refusal = too_many(self.data.left_out | lost, len(examples), self.max_error_share, examples)
        if refusal is not None:
            raise self.refused(f"{refusal}; mended, the same command goes on from the last checkpoint")
        self.lost |= lost
        self.lost_here = {}

    def _share_statistics(self) -> None:
        """Each worker has its own running batch-normalisation statistics: all go on with rank 0's, which are saved.

        So does a moving average, and what shares its tensors, such as the teacher of semi-supervised training.
        """
        if self.reporter.world_size == 1:
            return
        weights = self.student.state_dict()
        for name in [name for name, _ in self.student.named_buffers() if name in weights]:
            torch.distributed.broadcast(weights[name], 0)
            if self.average is not None:
                torch.distributed.broadcast(self.average.weights[name], 0)

    @property
    def learned(self) -> Weights:
        """The weights that are the result so far: the moving average's where there is one."""
        weights: Mapping[str, Tensor] = self.student.state_dict() if self.average is None else self.average.weights
        return dict(weights)

    def checkpoint(self, *, last: bool) -> Callable[[Path], None]:
        """See Trainer."""
        return self._save

    def _save(self, folder: Path) -> None:
        self.save(folder)
        write_history(folder, self.history)
        write_left_out(folder, self.data.left_out)
        write_left_out(folder, self.lost, LOST_FILE)

    def restore_history(self, folder: Path) -> None:
        """Continue the history and the list of lost images from a checkpoint."""
        self.history, self.lost = read_history(folder), read_lost(folder)
        self.epoch = len(self.history)
