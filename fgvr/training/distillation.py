"""What a teacher adds to a student's loss in a step, and how much it weighs in an epoch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fgvr.config import Dkd, Kd
from fgvr.losses.kd import dkd_rows, kd_rows, standardised
from fgvr.losses.makd import UNKNOWN_CLASS
from fgvr.training.batches import Batch
from fgvr.training.teacher import Teacher


class Distiller:
    """A teacher and the loss by which it is followed."""

    def __init__(self, settings: Kd | Dkd, teacher: Teacher, classes: npt.NDArray[np.int64]) -> None:
        """`classes`: int64 [N], class targets of the examples; −1 where there is none."""
        self.settings, self.teacher = settings, teacher
        # Which image has a target: every worker can count a whole step's, also those that others see.
        self._taught = teacher.known & (classes != UNKNOWN_CLASS) if isinstance(settings, Dkd) else teacher.known

    def weight(self, epoch: int) -> float:
        """Of the loss in an epoch, counted from 0: it rises linearly up to the last epoch of the warm-up."""
        warmup = self.settings.warmup_epochs
        return self.settings.weight * (min((epoch + 1) / warmup, 1.0) if warmup else 1.0)

    def step_count(self, batch: Batch) -> int:
        """Images of the whole step, over all workers, over which the loss is averaged."""
        return int(self._taught[batch.step_positions].sum())

    def loss_sum(self, logits: Tensor, batch: Batch, pixels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """The loss summed over this worker's images, and how many these are; scalars.

        Args:
            logits: the student's class logits, float [n, C].
            batch: this worker's share of the step.
            pixels: its pixels on the device.
            classes: class targets, int64 [n]; −1 where there is none.
        """
        teacher = self.teacher.logits(pixels, batch.positions)
        if self.settings.standardise:
            logits, teacher = standardised(logits), standardised(teacher)
        rows = self._rows(logits, teacher, classes)
        taught = torch.from_numpy(self._taught[batch.positions] & batch.readable).to(rows.device)
        return torch.where(taught, rows, 0.0).sum(), taught.sum().float()

    def _rows(self, logits: Tensor, teacher: Tensor, classes: Tensor) -> Tensor:
        settings = self.settings
        if isinstance(settings, Kd):
            return kd_rows(logits, teacher, settings.temperature)
        target_part, other_part = dkd_rows(logits, teacher, classes.clamp(min=0), settings.temperature)
        return settings.alpha * target_part + settings.beta * other_part
