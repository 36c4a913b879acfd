"""Training a student, from scratch or from pretrained weights, on class targets, the MLLM's aspect probabilities
(MaKD), the signatures of classes (LaViD) and a teacher's logits.

The loss terms define what it learns from. A further loss, for example one that compares several views of an image, or
one that needs no class, is one more term in a subclass of `StudentTrainer`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fgvr import storage
from fgvr.array_files import open_array
from fgvr.config import NoDistillation
from fgvr.forward_pass import in_passes
from fgvr.losses.makd import UNKNOWN_CLASS
from fgvr.models.base import WEIGHTS_FILE
from fgvr.models.student import build_student, save_student
from fgvr.precision import autocast, of_training
from fgvr.training.averaging import MovingAverage, Weights
from fgvr.training.batches import Batch, Positions, epoch_steps, steps_per_epoch
from fgvr.training.checkpoint import BEST, LAST, STATE_FILE, History
from fgvr.training.cpu_bf16 import train_in_bf16_on_cpu
from fgvr.training.examples import Examples
from fgvr.training.loop import LossTerm, Mean, Pace, train
from fgvr.training.optimisers import freeze_backbone, freeze_batch_statistics, optimiser_of
from fgvr.training.photo_trainer import PhotoTrainer
from fgvr.training.reporter import Reporter, data_parallel, sum_over_workers
from fgvr.training.run_images import RunImages
from fgvr.training.student_data import StudentJob, StudentTrainingError, open_student_data
from fgvr.training.student_terms import (
    AspectTerm,
    ClassTerm,
    DistillationTerm,
    MixedTerm,
    RefinedClassTerm,
    SignatureTerm,
    StudentStep,
)
from fgvr.training.teacher import open_teacher

RECIPE = 1
"""Increase it when the same settings, images and targets would train another student."""


def train_student(job: StudentJob, reporter: Reporter) -> History:
    """Train to the last epoch, starting from the reporter's checkpoint if there is one; returns every epoch's metrics.

    Raises:
        StudentTrainingError: too few images for the batch size and workers, or too many that cannot be read.
    """
    if job.settings.trainer != "plain":
        raise ValueError(f"trainer {job.settings.trainer}: see pipelines.student_task.student_loop")
    return train(StudentTrainer(job, reporter))


class StudentTrainer(PhotoTrainer):
    """One worker's side of a student's training run; it continues from the reporter's checkpoint if there is one.

    Beside the files of PhotoTrainer a checkpoint has `last/` and `best/`, which are whole models, and `state.pt` (the
    optimiser, the probabilities that class targets are clean, and, where `last/` is a moving average, the weights that
    it is of).
    """

    refused = StudentTrainingError
    data: RunImages[Examples]

    views = 1
    """Random crops of each image per step, for terms that compare them."""
    ways = 1
    """Number of outputs per image that `measured` gives."""

    def __init__(self, job: StudentJob, reporter: Reporter) -> None:
        """Open images, teacher and student; raises as `train_student`."""
        super().__init__(job.settings, reporter, job.max_error_share)
        self.job, self.settings = job, job.settings
        self.precision = of_training(self.settings.precision, self.device)
        resumed = reporter.resume_folder()
        self.data = open_student_data(job, reporter, resumed, views=self.views)
        self.examples = self.data.examples
        self.steps = steps_per_epoch(len(self.data.training), self.settings.batch_size)
        self.terms = self.loss_terms()
        self.refined = next((term for term in self.terms if isinstance(term, RefinedClassTerm)), None)
        torch.manual_seed(self.settings.seed)
        self.student = self.built()
        if job.start is not None and resumed is None:
            # Without a classifier, as a rule: that keeps its random weights.
            self.pretrained().load_state_dict(load_file(storage.fetch_file(job.start)), strict=False)
        self.optimiser = self.new_optimiser()
        half_life = self.half_life()
        self.average = None if half_life is None else MovingAverage(self.student, half_life)
        self.spec = replace(job.spec, precision=self.precision)
        self.validation_top1 = math.nan
        self.best: dict[str, float] | None = None
        self.best_weights: Weights | None = None
        if resumed is not None:
            self._restore(resumed)
        self.held = list[nn.Parameter]()
        self.model = self._wrapped(self.epoch)

    def built(self) -> nn.Module:
        """A student with random weights on the device, in the run's precision."""
        student = build_student(self.job.spec).to(self.device)
        if self.precision == "bf16" and self.device.type == "cpu":
            train_in_bf16_on_cpu(student, self.job.spec.preprocess.input_size)
        return student

    def pretrained(self) -> nn.Module:
        """The part of the student that starts from pretrained weights."""
        return self.student

    def new_optimiser(self) -> torch.optim.Optimizer:
        """The optimiser of all weights."""
        return optimiser_of(self.student, self.settings)

    def _wrapped(self, epoch: int) -> nn.Module:
        """The student as it is called in an epoch: with the backbone frozen or not, for several workers, compiled."""
        for weight in self.held:
            weight.requires_grad_(True)
        self.held = freeze_backbone(self.student) if epoch < self.settings.freeze_epochs else []
        model = data_parallel(self.student, self.reporter)  # it looks once at which weights learn
        return torch.compile(model) if self.settings.compile else model  # type: ignore[return-value]

    def half_life(self) -> float | None:
        """Half-life of the moving average in images; None: there is none."""
        return self.settings.ema

    def loss_terms(self) -> Sequence[LossTerm[StudentStep]]:
        """The losses that the student learns from; a subclass can add to them."""
        taught, classes = self.settings.distillation, self.examples.classes
        asked = self.job.all_asked or self.settings.unasked_aspects == "class_mean"  # which leaves none without
        class_weight = 1.0 if isinstance(taught, NoDistillation) else taught.class_weight
        refines, after = self.settings.class_loss == "mixture", self.settings.refine_after
        class_term = (
            RefinedClassTerm(self.examples, class_weight, after)
            if refines
            else ClassTerm(self.examples, class_weight, self.settings.label_smoothing)
        )
        terms: list[LossTerm[StudentStep]] = [
            class_term,
            AspectTerm(self.examples, self.settings.aspect_loss, self.settings.alpha, all_asked=asked),
        ]
        if self.job.spec.choices:
            terms.append(self._signature_term())
        if self.settings.mixes:  # a teacher that is a student sees the mixed images themselves
            terms = [MixedTerm(term) for term in terms]
        if not isinstance(taught, NoDistillation):
            if self.job.teacher is None:
                raise ValueError("a distillation without a teacher")
            labels, low = self.job.spec.labels, self.precision == "bf16"
            teacher = open_teacher(self.job.teacher, labels, len(classes), self.device, low_precision=low)
            terms.append(DistillationTerm(taught, teacher, classes, all_asked=self.job.all_asked))
        return terms

    def _signature_term(self) -> SignatureTerm:
        if self.job.signatures is None:
            raise ValueError("a student with choice questions without the signatures of its classes")
        signatures = torch.from_numpy(np.array(open_array(storage.fetch_file(self.job.signatures))))
        sizes = [len(question.options) for question in self.job.spec.choices]
        return SignatureTerm(self.examples, signatures.to(self.device), sizes, self.settings.signature_weight)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """See Trainer; checkpoints are saved at the ends of epochs only, so each starts at its first step."""
        settings = self.settings
        if self.held and epoch >= settings.freeze_epochs:
            self.model = self._wrapped(epoch)
        self.model.train(not self.held)  # of a frozen backbone the batch-norm statistics stay as they are, too
        if settings.batch_norm == "frozen":
            freeze_batch_statistics(self.student)
        return self.data.loader.in_steps(self.epoch_steps(epoch), settings.seed, epoch)

    def epoch_steps(self, epoch: int) -> Sequence[Positions]:
        """The positions of the images of each step of an epoch, over all workers."""
        return epoch_steps(self.data.training, self.settings.batch_size, self.settings.seed, epoch)

    def losses(self, batch: Batch) -> Mapping[str, Mean]:
        """See Trainer: the loss terms, and the share of right classes on the first view before the step."""
        step = self._step(batch)
        return {term.name: term(step) for term in self.terms} | dict(self.further(step))

    def further(self, step: StudentStep) -> Mapping[str, Mean]:
        """Means of a step that are reported beside its losses."""
        larger = step.classes if step.partners is None or step.share >= 0.5 else step.partners.classes
        right = (step.class_logits[0].detach().argmax(dim=1) == larger).sum()
        return {"train_top1": Mean(right, (larger != UNKNOWN_CLASS).sum())}

    def _step(self, batch: Batch) -> StudentStep:
        pixels = tuple(view.to(self.device, non_blocking=True) for view in batch.views)
        # All views at once: one pass for DDP, and batch normalisation sees the same images in each.
        outputs = self._forward(self.model, pixels[0] if len(pixels) == 1 else torch.cat(pixels))
        step = self._shown(batch, pixels, outputs.chunk(len(pixels)))
        partners = batch.of_partners()
        if partners is None:
            return step
        classes, p_yes = self._targets(partners)
        return replace(step, partners=replace(step, batch=partners, classes=classes, p_yes=p_yes), share=batch.share)

    def _shown(self, batch: Batch, pixels: tuple[Tensor, ...], outputs: Sequence[Tensor]) -> StudentStep:
        """A batch with the outputs of each view, and its targets."""
        spec, (classes, p_yes) = self.job.spec, self._targets(batch)
        class_logits, aspect_logits = zip(*(spec.split(view) for view in outputs), strict=True)
        choice_logits = tuple(spec.choice_logits(view) for view in outputs)
        return StudentStep(
            *(self.epoch, batch, pixels, class_logits, aspect_logits, classes, p_yes), choice_logits=choice_logits
        )

    def _forward(self, model: nn.Module, pixels: Tensor) -> Tensor:
        with autocast(self.device, self.precision):
            outputs: Tensor = model(self.job.spec.preprocess.normalise(pixels))
        return outputs.float()

    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Class targets [n] and p(yes) [n, Q] on the device; none for images that turned out to be unreadable."""
        classes = np.where(batch.readable, self.examples.classes[batch.positions], UNKNOWN_CLASS)
        p_yes = np.where(batch.readable[:, None], self.examples.p_yes[batch.positions], np.float32(np.nan))
        return (
            torch.from_numpy(classes).to(self.device, non_blocking=True),
            torch.from_numpy(p_yes).to(self.device, non_blocking=True),
        )

    def end_epoch(self, epoch: int) -> None:
        """See PhotoTrainer."""
        super().end_epoch(epoch)
        if self.refined is not None:
            self.refined.end_epoch(epoch, self.reporter.rank, self.reporter.world_size)

    @torch.inference_mode()
    def measure(self) -> None:
        """See PhotoTrainer: the share of the held-out images whose class is predicted correctly."""
        if not len(self.data.held_out):
            return
        self.student.eval()
        counts = torch.zeros(1 + self.ways, dtype=torch.float64, device=self.device)
        for batch in self.data.loader.validation(self.data.held_out, 4 * self.settings.batch_size):
            self.lost_here |= batch.failures
            if not len(batch.positions):  # fewer images than workers in the last batch
                continue
            classes, _ = self._targets(batch)
            pixels = batch.pixels.to(self.device, non_blocking=True)
            right = [(self.job.spec.predicted(outputs) == classes).sum() for outputs in self.measured(batch, pixels)]
            counts += torch.stack([(classes != UNKNOWN_CLASS).sum(), *right])
        count, *rights = sum_over_workers(counts, self.reporter.world_size).tolist()
        self.validated([right_count / max(count, 1) for right_count in rights])

    def measured(self, batch: Batch, pixels: Tensor) -> Sequence[Tensor]:
        """Outputs [n, C + Q + K] for images that are held out, in each way in which the student is measured."""
        return [in_passes(partial(self._forward, self.student), pixels, self.device)]

    def validated(self, shares: Sequence[float]) -> None:
        """Take in the shares of held-out images whose class is predicted correctly, in the order of `measured`."""
        self.validation_top1 = float(shares[0])

    def measures(self, pace: Pace) -> dict[str, float]:
        """See Trainer; accuracy on held-out images after the epoch, if some are held out."""
        validated = {} if math.isnan(self.validation_top1) else {"validation_top1": self.validation_top1}
        clean = {} if self.refined is None else {"clean_share": self.refined.clean_share()}
        return validated | clean | super().measures(pace)

    def record(self, metrics: dict[str, float]) -> None:
        """See Trainer; among equal validation results the later epoch wins, since its learning rate was lower."""
        super().record(metrics)
        if "validation_top1" not in metrics:
            return
        if self.best is None or metrics["validation_top1"] >= self.best["validation_top1"]:
            self.best = metrics
            # Only rank 0 keeps the best weights; all ranks know which epoch is best.
            if self.reporter.rank == 0:
                self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in self.learned.items()}

    def diverged(self, loss: float, epoch: int) -> StudentTrainingError:
        """See Trainer."""
        return StudentTrainingError(
            f"the loss is not finite after epoch {epoch + 1}: lower makd.lr = {self.settings.lr}"
        )

    def save(self, folder: Path) -> None:
        """See PhotoTrainer."""
        save_student(folder / LAST, self.spec, self.learned, self.history[-1])
        if self.best is not None and self.best_weights is not None:
            save_student(folder / BEST, self.spec, self.best_weights, self.best)
        torch.save(self.state(), folder / STATE_FILE)

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps beside the model, tensors and numbers only."""
        kept: dict[str, object] = {"optimiser": self.optimiser.state_dict()}
        if self.refined is not None:
            kept |= {"clean": self.refined.clean}
        if self.average is not None:
            kept |= {"student": self.student.state_dict(), "averaged_images": self.average.images}
        return kept

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` kept."""
        self.optimiser.load_state_dict(state["optimiser"])
        if self.refined is not None:
            self.refined.clean = state["clean"]

    def _restore(self, folder: Path) -> None:
        """Continue from a checkpoint: restore weights, optimiser and history."""
        learned = load_file(folder / LAST / WEIGHTS_FILE)
        # To the CPU first: the GPU that wrote it may not exist here, or belong to another worker.
        state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
        self.student.load_state_dict(state.get("student", learned))
        if self.average is not None:
            self.average.restore(learned, state["averaged_images"])
        self.restore_state(state)
        self.restore_history(folder)
        validated = [row for row in self.history if "validation_top1" in row]
        if validated:
            self.best = max(validated, key=lambda row: (row["validation_top1"], row["epoch"]))
            self.best_weights = load_file(folder / BEST / WEIGHTS_FILE)
