"""The loss terms of a student: class targets, the MLLM's answers about aspects, and a teacher's logits.

Each is a `fgvr.training.loop.LossTerm` on a `StudentStep` and computes a published loss (`fgvr.losses`). Sums run over
this worker's images, counts over the images of the whole step: every worker has the targets of all images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fgvr.config import Dkd, Kd
from fgvr.losses.kd import dkd_rows, kd_rows, standardised
from fgvr.losses.makd import UNKNOWN_CLASS, AspectLoss, aspect_counts, aspect_sum, class_sum
from fgvr.training.batches import Batch
from fgvr.training.examples import Examples
from fgvr.training.loop import Term
from fgvr.training.teacher import Teacher


@dataclass(frozen=True)
class StudentStep:
    """What loss terms see of a step: this worker's n images in one or more views, the outputs, and the targets.

    Attributes:
        epoch: counted from 0.
        batch: has the images' positions in the examples, and those of the whole step.
        pixels: per view, uint8 [n, S, S, 3] on the device.
        class_logits: per view, float32 [n, C].
        aspect_logits: per view, float32 [n, Q].
        classes: class targets, int64 [n]; −1 for images without one and for images that could not be read after all.
        p_yes: float32 [n, Q]; nan where the MLLM gave no answer.
    """

    epoch: int
    batch: Batch
    pixels: tuple[Tensor, ...]
    class_logits: tuple[Tensor, ...]
    aspect_logits: tuple[Tensor, ...]
    classes: Tensor
    p_yes: Tensor


class ClassTerm:
    """Cross entropy of the first view with the class targets."""

    name = "class_loss"

    def __init__(self, examples: Examples, weight: float) -> None:
        self.weight, self._classes = weight, examples.classes  # memory-mapped: no copy of millions

    def __call__(self, step: StudentStep) -> Term:
        """See LossTerm."""
        total, seen = class_sum(step.class_logits[0], step.classes)
        count = int((self._classes[step.batch.step_positions] != UNKNOWN_CLASS).sum())
        return Term(total, seen, count, self.weight)


class AspectTerm:
    """The aspect loss of the first view with the MLLM's p(yes)."""

    name = "aspect_loss"

    def __init__(self, examples: Examples, kind: AspectLoss, weight: float) -> None:
        self.kind, self.weight = kind, weight
        self._counts = np.zeros(len(examples), dtype=np.int32)
        for rows, values in examples.answers.blocks():
            p_yes = torch.from_numpy(values)
            self._counts[rows] = aspect_counts(p_yes, ~p_yes.isnan(), kind).numpy()

    def __call__(self, step: StudentStep) -> Term:
        """See LossTerm."""
        total, seen = aspect_sum(step.aspect_logits[0], step.p_yes, ~step.p_yes.isnan(), self.kind)
        return Term(total, seen, int(self._counts[step.batch.step_positions].sum()), self.weight)


class DistillationTerm:
    """The loss by which the first view's class logits follow a teacher's, T² included."""

    name = "distillation_loss"

    def __init__(self, settings: Kd | Dkd, teacher: Teacher, classes: npt.NDArray[np.int64]) -> None:
        """`classes`: int64 [N], class targets of the examples; −1 where there is none."""
        self.settings, self.teacher = settings, teacher
        self._taught = teacher.known & (classes != UNKNOWN_CLASS) if isinstance(settings, Dkd) else teacher.known

    def weight(self, epoch: int) -> float:
        """Weight in an epoch, counted from 0: it rises linearly up to the last epoch of the warm-up."""
        warmup = self.settings.warmup_epochs
        return self.settings.weight * (min((epoch + 1) / warmup, 1.0) if warmup else 1.0)

    def __call__(self, step: StudentStep) -> Term:
        """See LossTerm."""
        batch, student = step.batch, step.class_logits[0]
        teacher = self.teacher.logits(step.pixels[0], batch.positions)
        if self.settings.standardise:
            student, teacher = standardised(student), standardised(teacher)
        rows = self._rows(student, teacher, step.classes)
        taught = torch.from_numpy(self._taught[batch.positions] & batch.readable).to(rows.device)
        return Term(
            torch.where(taught, rows, 0.0).sum(),
            taught.sum().float(),
            int(self._taught[batch.step_positions].sum()),
            self.weight(step.epoch),
        )

    def _rows(self, student: Tensor, teacher: Tensor, classes: Tensor) -> Tensor:
        settings = self.settings
        if isinstance(settings, Kd):
            return kd_rows(student, teacher, settings.temperature)
        target_part, other_part = dkd_rows(student, teacher, classes.clamp(min=0), settings.temperature)
        return settings.alpha * target_part + settings.beta * other_part
