"""MaKD training: a student from scratch on class targets and the MLLM's aspect probabilities, in plain PyTorch.

A teacher of the class outputs may be added (`makd.distillation`).

One process or many (torch.distributed): weights, order and augmentation follow from the seed, the batch size counts
over all workers, and losses are averaged over the whole step. So a step on n workers is the step of one worker, except
for batch normalisation, whose statistics are each worker's own. Checkpoints stand at the ends of epochs; a resumed
training goes on with the same batches and rates (bit-equal on a CPU with the same number of threads).
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fgvr.config import Makd, NoDistillation
from fgvr.losses.makd import UNKNOWN_CLASS, aspect_counts, makd_terms, mean
from fgvr.precision import autocast, of_training
from fgvr.students.architecture import build_student
from fgvr.training.batches import Batch, steps_per_epoch
from fgvr.training.checkpoint import Checkpoint, EpochMetrics
from fgvr.training.collective import sum_over_workers
from fgvr.training.cpu_bf16 import train_in_bf16_on_cpu
from fgvr.training.distillation import Distiller
from fgvr.training.left_out import LeftOut, over_workers, too_many
from fgvr.training.reporter import Reporter
from fgvr.training.schedule import learning_rate
from fgvr.training.student_data import StudentJob, StudentTrainingError, open_student_data
from fgvr.training.teacher import open_teacher

RECIPE = 1
"""Raised when the same settings, images and targets come to train another student."""


def train_student(job: StudentJob, reporter: Reporter) -> None:
    """Train to the last epoch, from the reporter's checkpoint if it has one.

    Every epoch's metrics are reported; see `fgvr.training.checkpoint` for what a checkpoint holds.

    Raises:
        StudentTrainingError: too few images for the batch size and workers, or too many that cannot be read.
    """
    training = StudentTraining(job, reporter)
    if training.first_epoch >= job.settings.epochs:  # it died after its last checkpoint: only the report is missing
        training.report(checkpoint=True)
    for epoch in range(training.first_epoch, job.settings.epochs):
        training.epoch(epoch)


class StudentTraining:
    """One worker's side of a training, from the reporter's checkpoint if it has one."""

    def __init__(self, job: StudentJob, reporter: Reporter) -> None:
        """Open images, teacher and student; raises as `train_student`."""
        self.job, self.reporter, self.device = job, reporter, reporter.device
        self.settings = job.settings
        self.precision = of_training(self.settings.precision, self.device)
        self.low_precision = self.precision == "bf16"
        resumed = reporter.resume_folder()
        self.data = open_student_data(job, reporter, resumed)
        self.examples = self.data.examples
        self.cells = self._cells()
        self.distiller = self._distiller()
        torch.manual_seed(self.settings.seed)
        self.student = build_student(job.spec).to(self.device)
        if self.low_precision and self.device.type == "cpu":
            train_in_bf16_on_cpu(self.student, job.spec.preprocess.input_size)
        self.optimiser = torch.optim.SGD(
            self.student.parameters(),
            lr=self.settings.lr,
            momentum=self.settings.momentum,
            weight_decay=self.settings.weight_decay,
        )
        self.checkpoint = Checkpoint(replace(job.spec, precision=self.precision), self.data.left_out)
        self._lost: LeftOut = {}  # by this worker in this epoch
        if resumed is not None:
            self.checkpoint.restore(resumed, self.student, self.optimiser)
        self.first_epoch = len(self.checkpoint.history)
        self.model = _wrapped(self.student, self.settings, reporter)

    def _cells(self) -> npt.NDArray[np.int32]:
        """What each image weighs in the mean of the aspect loss, int32 [N]; nothing where it has no answers."""
        cells = np.zeros(len(self.examples), dtype=np.int32)
        for rows, values in self.examples.answers.blocks():
            p_yes = torch.from_numpy(values)
            cells[rows] = aspect_counts(p_yes, ~p_yes.isnan(), self.settings.aspect_loss).numpy()
        return cells

    def _distiller(self) -> Distiller | None:
        settings = self.settings.distillation
        if isinstance(settings, NoDistillation):
            return None
        if self.job.teacher is None:
            raise ValueError("a distillation without a teacher")
        labels, count = self.job.spec.labels, len(self.examples)
        teacher = open_teacher(self.job.teacher, labels, count, self.device, low_precision=self.low_precision)
        return Distiller(settings, teacher, self.examples.classes)

    def epoch(self, epoch: int) -> None:
        """Train one pass, validate, report."""
        torch.manual_seed(hash((self.settings.seed, epoch, self.reporter.rank)))  # dropout and the like
        self._lost = {}
        start = time.monotonic()
        sums = self._train(epoch)
        seconds = time.monotonic() - start
        class_loss, aspect_loss = sums[0] / max(sums[1], 1), sums[2] / max(sums[3], 1)
        distillation_loss = sums[5] / max(sums[6], 1)
        loss = self._class_weight * class_loss + self.settings.alpha * aspect_loss
        if self.distiller is not None:
            loss += self.distiller.weight(epoch) * distillation_loss
        if not math.isfinite(loss):
            raise StudentTrainingError(
                f"the loss is not finite after epoch {epoch + 1}: lower makd.lr = {self.settings.lr}"
            )
        metrics = EpochMetrics(
            epoch=epoch + 1,
            loss=loss,
            class_loss=class_loss,
            aspect_loss=aspect_loss,
            distillation_loss=math.nan if self.distiller is None else distillation_loss,
            train_top1=sums[4] / max(sums[1], 1),
            validation_top1=self._validate(),
            learning_rate=self.optimiser.param_groups[0]["lr"],
            images_per_second=len(self.data.training) / seconds,
        )
        self._count_lost()
        # Rank 0 alone keeps the best weights; what is best follows from numbers that all ranks have.
        self.checkpoint.finish_epoch(metrics, self.student.state_dict(), keep=self.reporter.rank == 0)
        last = epoch + 1 == self.settings.epochs
        self.report(checkpoint=last or (epoch + 1) % self.settings.checkpoint_epochs == 0)

    def _count_lost(self) -> None:
        """What any worker lost in this epoch, beside what was left out from the start; stops where that is too much."""
        lost = over_workers(self._lost, self.reporter.world_size)
        refusal = too_many(self.data.left_out | lost, len(self.examples), self.job.max_error_share, self.examples)
        if refusal is not None:
            raise StudentTrainingError(f"{refusal}; mended, the same command goes on from the last checkpoint")
        self.checkpoint.lost |= lost

    def report(self, *, checkpoint: bool) -> None:
        """Report the last epoch, with a checkpoint or without."""
        self.reporter.report(self.checkpoint.history[-1].plain(), self._save if checkpoint else None)

    def _save(self, folder: Path) -> None:
        self.checkpoint.save(folder, self.student, self.optimiser)

    def _train(self, epoch: int) -> list[float]:
        """One pass; returns sums over all workers.

        They are class loss, its count, aspect loss, its count, right answers, distillation loss, its count.
        """
        self.model.train()
        steps = steps_per_epoch(len(self.data.training), self.settings.batch_size)
        sums = torch.zeros(7, dtype=torch.float64, device=self.device)
        batches = self.data.loader.training(self.data.training, self.settings.batch_size, self.settings.seed, epoch)
        for number, batch in enumerate(batches):
            rate = learning_rate(self.settings, epoch * steps + number, steps)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            sums += self.step(batch, epoch)
            self._lost |= batch.failures
        return self._over_workers(sums)

    def step(self, batch: Batch, epoch: int) -> Tensor:
        """Learn from one batch: this worker's sums, float64 [7], in the order that `_train` says."""
        classes, p_yes = self._targets(batch)
        pixels = batch.pixels.to(self.device, non_blocking=True)
        outputs = self._forward(self.model, pixels)
        terms = makd_terms(outputs, classes, p_yes, ~p_yes.isnan(), self.settings.aspect_loss)
        # The mean over the whole step, whose targets every worker knows. DDP averages the workers' gradients, so
        # each worker's part is multiplied by their number.
        step_classes = int((self.examples.classes[batch.step_positions] != UNKNOWN_CLASS).sum())
        step_cells = int(self.cells[batch.step_positions].sum())
        loss = self._class_weight * mean(terms.class_sum, torch.tensor(step_classes))
        loss = loss + self.settings.alpha * mean(terms.aspect_sum, torch.tensor(step_cells))
        taught_sum = taught_count = torch.zeros((), device=self.device)
        if self.distiller is not None:
            logits, _ = self.job.spec.split(outputs)
            taught_sum, taught_count = self.distiller.loss_sum(logits, batch, pixels, classes)
            step_taught = torch.tensor(self.distiller.step_count(batch))
            loss = loss + self.distiller.weight(epoch) * mean(taught_sum, step_taught)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss * self.reporter.world_size)
        self.optimiser.step()
        right = (self.job.spec.predicted(outputs.detach()) == classes).sum()
        parts = (terms.class_sum, terms.class_count, terms.aspect_sum, terms.aspect_count, right)
        return torch.stack([part.detach().double() for part in (*parts, taught_sum, taught_count)])

    @torch.inference_mode()
    def _validate(self) -> float:
        """Share of the held-out images whose class is right; nan where none are held out."""
        if not len(self.data.validation):
            return float("nan")
        self._share_buffers()
        self.student.eval()
        counts = torch.zeros(2, dtype=torch.float64, device=self.device)
        for batch in self.data.loader.validation(self.data.validation, 4 * self.settings.batch_size):
            self._lost |= batch.failures
            if not len(batch.positions):  # fewer images than workers in the last batch
                continue
            classes, _ = self._targets(batch)
            outputs = self._forward(self.student, batch.pixels.to(self.device, non_blocking=True))
            right = self.job.spec.predicted(outputs) == classes
            counts += torch.stack([right.sum(), (classes != UNKNOWN_CLASS).sum()])
        right_count, count = self._over_workers(counts)
        return right_count / max(count, 1)

    def _forward(self, model: nn.Module, pixels: Tensor) -> Tensor:
        with autocast(self.device, self.precision):
            outputs: Tensor = model(self.job.spec.preprocess.normalise(pixels))
        return outputs.float()

    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Class targets [n] and p(yes) [n, Q] on the device; none for images that could not be read after all."""
        classes = np.where(batch.readable, self.examples.classes[batch.positions], UNKNOWN_CLASS)
        p_yes = np.where(batch.readable[:, None], self.examples.p_yes[batch.positions], np.float32(np.nan))
        return (
            torch.from_numpy(classes).to(self.device, non_blocking=True),
            torch.from_numpy(p_yes).to(self.device, non_blocking=True),
        )

    @property
    def _class_weight(self) -> float:
        """Of the class targets beside what a teacher says."""
        return 1.0 if self.distiller is None else self.distiller.settings.class_weight

    def _over_workers(self, sums: Tensor) -> list[float]:
        return [float(value) for value in sum_over_workers(sums, self.reporter.world_size).tolist()]

    def _share_buffers(self) -> None:
        """Running statistics of batch normalisation are each worker's own: validation and checkpoints take rank 0's."""
        if self.reporter.world_size > 1:
            for buffer in self.student.buffers():
                torch.distributed.broadcast(buffer, 0)


def _wrapped(student: nn.Module, settings: Makd, reporter: Reporter) -> nn.Module:
    """The student as it is called in training: compiled and data-parallel where asked for; the weights stay its own."""
    model = student
    if reporter.world_size > 1:
        on_gpu = [reporter.device.index] if reporter.device.type == "cuda" else None
        model = DistributedDataParallel(model, device_ids=on_gpu)
    if settings.compile:
        model = torch.compile(model)  # type: ignore[assignment]
    return model
