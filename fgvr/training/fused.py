"""Training a student of photos and their metadata, with contrastive pre-training in the first epochs if asked for.

Everything else is as in `fgvr.training.student`: the metadata's features are one more input, the contrastive loss one
more term. With several workers each contrasts its own share of a step, as batch normalisation does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fgvr import storage
from fgvr.array_files import open_array
from fgvr.forward_pass import in_passes
from fgvr.losses.contrastive import cross_contrastive_rows
from fgvr.losses.makd import UNKNOWN_CLASS
from fgvr.models.fused import FusedStudent
from fgvr.precision import autocast
from fgvr.training.batches import Batch
from fgvr.training.checkpoint import History
from fgvr.training.examples import Examples
from fgvr.training.loop import LossTerm, Pace, Term, train
from fgvr.training.optimisers import SCALE, optimiser_of
from fgvr.training.reporter import Reporter
from fgvr.training.student import StudentTrainer
from fgvr.training.student_data import StudentJob
from fgvr.training.student_terms import StudentStep


def train_fused(job: StudentJob, reporter: Reporter) -> History:
    """As `train_student`, for a student whose spec has metadata."""
    return train(FusedTrainer(job, reporter))


class ContrastiveTerm:
    """The cross-contrastive loss of photo, metadata and texts (arXiv 2504.20322); it ends with the pre-training."""

    name = "contrastive_loss"

    def __init__(self, examples: Examples, temperature: float, epochs: int) -> None:
        """`epochs`: how many it is learned in."""
        self._classes, self.temperature, self.epochs = examples.classes, temperature, epochs

    def __call__(self, step: StudentStep) -> Term:
        """See LossTerm."""
        rows = cross_contrastive_rows(step.projected, step.classes, self.temperature)
        count = int((self._classes[step.batch.step_positions] != UNKNOWN_CLASS).sum())
        seen = (step.classes != UNKNOWN_CLASS).sum()
        return Term(rows.sum(), seen, count, 1.0 if step.epoch < self.epochs else 0.0)


@dataclass(frozen=True)
class AfterPretraining:
    """A loss that is computed and reported in all epochs, and learned from one on."""

    term: LossTerm[StudentStep]
    epochs: int

    @property
    def name(self) -> str:
        """That of the loss."""
        return self.term.name

    def __call__(self, step: StudentStep) -> Term:
        """See LossTerm."""
        found = self.term(step)
        return replace(found, weight=0.0) if step.epoch < self.epochs else found


class FusedTrainer(StudentTrainer):
    """A student's trainer with metadata. It is also measured on the photos alone, with all columns missing."""

    ways = 2
    student: FusedStudent

    def __init__(self, job: StudentJob, reporter: Reporter) -> None:
        """Open images, features, teacher and student; raises as `train_student`."""
        if job.spec.metadata is None or job.metadata is None:
            raise ValueError("a student with metadata without its features")
        self.features = open_array(storage.fetch_file(job.metadata))
        self.photo_alone = float("nan")
        super().__init__(job, reporter)
        if len(self.features) != len(self.examples):
            raise ValueError(f"{len(self.features)} rows of metadata for {len(self.examples)} images")

    def pretrained(self) -> nn.Module:
        """See StudentTrainer: the photo's part."""
        return self.student.image

    def new_optimiser(self) -> torch.optim.Optimizer:
        """See StudentTrainer; the metadata's part has a rate of its own."""
        settings = self.settings
        made = optimiser_of(self.student.image, settings)
        named = [weight for name, weight in self.student.named_parameters() if not name.startswith("image.")]
        made.add_param_group({"params": named, SCALE: self._encoder_scale})
        return made

    @property
    def _encoder_scale(self) -> float:
        """The rate of the metadata's part, as a factor of the student's."""
        rate = self.settings.metadata.encoder_lr
        return 1.0 if rate is None else rate / self.settings.lr

    def loss_terms(self) -> Sequence[LossTerm[StudentStep]]:
        """See StudentTrainer; with pre-training the contrastive loss first, and the others after it."""
        terms, metadata = super().loss_terms(), self.settings.metadata
        if not metadata.pretrain_epochs:
            return terms
        contrast = ContrastiveTerm(self.examples, metadata.temperature, metadata.pretrain_epochs)
        return [contrast, *(AfterPretraining(term, metadata.pretrain_epochs) for term in terms)]

    def _step(self, batch: Batch) -> StudentStep:
        pixels = batch.pixels.to(self.device, non_blocking=True)
        with autocast(self.device, self.precision):
            outputs = self.model(self.job.spec.preprocess.normalise(pixels), self._features(batch))
        found, *projected = outputs if isinstance(outputs, tuple) else (outputs,)
        step = self._shown(batch, (pixels,), (found.float(),))
        return replace(step, projected=tuple(each.float() for each in projected))

    def measured(self, batch: Batch, pixels: Tensor) -> Sequence[Tensor]:
        """See StudentTrainer: with the metadata, and without."""
        network = partial(self._beside, self.student)
        return [
            in_passes(network, pixels, self.device, self._features(batch)),
            in_passes(network, pixels, self.device),
        ]

    def _beside(self, model: nn.Module, pixels: Tensor, features: Tensor | None = None) -> Tensor:
        with autocast(self.device, self.precision):
            outputs: Tensor = model(self.job.spec.preprocess.normalise(pixels), features)
        return outputs.float()

    def _features(self, batch: Batch) -> Tensor:
        rows = np.asarray(self.features[batch.positions], np.float32)
        return torch.from_numpy(rows).to(self.device, non_blocking=True)

    def validated(self, shares: Sequence[float]) -> None:
        """See StudentTrainer."""
        super().validated(shares)
        self.photo_alone = float(shares[1])

    def measures(self, pace: Pace) -> dict[str, float]:
        """See Trainer; also the accuracy without metadata, where images are held out."""
        alone = {} if np.isnan(self.photo_alone) else {"validation_top1_photo_alone": self.photo_alone}
        return alone | super().measures(pace)

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """See StudentTrainer."""
        super().restore_state(state)
        self.optimiser.param_groups[-1][SCALE] = self._encoder_scale  # of the config, not of the checkpoint
