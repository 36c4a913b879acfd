"""Training a small encoder on another one's vectors and feature maps, without labels (Proteus).

With stored vectors it needs nothing but pairs of an image and a vector. A network as the teacher sees the very crops
that the student sees, so its feature maps can be learned, too.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from fgvr.losses.encoder import draw_masks, unit_distance
from fgvr.metrics.neighbour_agreement import neighbour_agreement
from fgvr.models.distilled import build_backbone, save_distilled
from fgvr.models.feature_grid import PatchMasks, grid_of
from fgvr.precision import autocast, automatic
from fgvr.training.averaging import MovingAverage
from fgvr.training.batches import Batch, steps_per_epoch
from fgvr.training.checkpoint import LAST, STATE_FILE, History
from fgvr.training.encoder_data import EncoderJob, Pacing, open_encoder_data
from fgvr.training.encoder_examples import EncoderExamples, EncoderTrainingError, Halfs
from fgvr.training.encoder_teacher import EncoderTeacher, common_input, open_encoder_teacher, resized
from fgvr.training.encoder_terms import EncoderStep, EncoderStudent, Masked, MaskedTerm, SpatialTerm, VectorTerm
from fgvr.training.loop import LossTerm, Mean, Pace, train
from fgvr.training.photo_trainer import PhotoTrainer
from fgvr.training.reporter import Reporter, data_parallel, sum_over_workers
from fgvr.training.run_images import RunImages

log = logging.getLogger(__name__)

RECIPE = 1
"""Increase it when the same settings, images and teacher would train another encoder."""
NEIGHBOURS = 10
"""k of the agreement about nearest neighbours."""
MASKS = 1
"""End of the random stream of masks; those of crops end with the step."""


def train_encoder(job: EncoderJob, reporter: Reporter) -> History:
    """Train to the last epoch, starting from the reporter's checkpoint if there is one; returns every epoch's metrics.

    Raises:
        EncoderTrainingError: too few images for the batch size and workers, too many that cannot be read, or a loss
            that the teacher or the student cannot have.
    """
    return train(EncoderTrainer(job, reporter))


class EncoderTrainer(PhotoTrainer):
    """One worker's side of an encoder's training run; it continues from the reporter's checkpoint if there is one.

    Beside the files of PhotoTrainer a checkpoint has `last/`, the folder of the encoder so far
    (`fgvr.models.distilled`), and `state.pt` (all weights, the optimiser, the moving average).
    """

    refused = EncoderTrainingError
    data: RunImages[EncoderExamples]
    student: EncoderStudent

    def __init__(self, job: EncoderJob, reporter: Reporter) -> None:
        """Open images, teacher and student; raises as `train_encoder`."""
        settings = job.settings
        super().__init__(Pacing.of(settings), reporter, job.max_error_share)
        self.job, self.settings = job, settings
        self.precision = automatic(self.device)
        resumed = reporter.resume_folder()
        examples = EncoderExamples.read(job.examples)
        self.teacher = self._teacher(examples)
        self.preprocess = job.spec.preprocess
        common = common_input(self.preprocess, self.teacher.side)
        self.data = open_encoder_data(job, examples, common, reporter, resumed)
        self.steps = steps_per_epoch(len(self.data.training), settings.batch_size)
        torch.manual_seed(settings.seed)
        self.student = self._built().to(self.device)
        self.masks = self.student.masks if self.student.masked_head is not None else None
        self.terms = self.loss_terms()
        spared = tuple(f"encoder.backbone.{name}" for name in _spared(self.student.encoder.backbone))
        groups = param_groups_weight_decay(self.student, settings.weight_decay, no_weight_decay_list=spared)
        self.optimiser = torch.optim.AdamW(groups, lr=self.recipe.lr, betas=(self.recipe.momentum, 0.999))
        half_life = settings.ema_epochs
        images = len(self.data.training)
        self.average = None if half_life is None else MovingAverage(self.student, half_life * images)
        self.measured: dict[str, float] = {}
        if resumed is not None:
            self._restore(resumed)
        self.model = data_parallel(self.student, reporter)

    def _teacher(self, examples: EncoderExamples) -> EncoderTeacher:
        settings = self.settings
        spatial = bool(settings.spatial or settings.masked)
        asked = bool(settings.spatial_weight or settings.masked_weight)
        vectors = cast("Halfs | None", examples.vectors)
        return open_encoder_teacher(
            self.job.teacher, vectors, self.device, self.precision, spatial=spatial, asked=asked
        )

    def _built(self) -> EncoderStudent:
        """The student with the heads that its losses need."""
        settings, taught = self.settings, self.teacher.grid
        backbone, features = build_backbone(self.job.spec)
        side = self.preprocess.input_size
        found = None if taught is None else _channels(backbone, side)
        if taught is not None and found is None and (settings.spatial_weight or settings.masked_weight):
            raise EncoderTrainingError(
                f"distill.backbone {self.job.spec.backbone!r} has no feature maps; leave spatial_weight and "
                "masked_weight out, or set them to 0"
            )
        pair = None if taught is None or found is None else (found, taught[2])
        masks = PatchMasks.of(backbone, side) if pair is not None and settings.masked else None
        if masks is None and settings.masked_weight:
            raise EncoderTrainingError(
                f"distill.masked_weight = {settings.masked_weight:g}: patches of distill.backbone "
                f"{self.job.spec.backbone!r} cannot be masked, which takes a vision transformer; leave it out"
            )
        return EncoderStudent(
            backbone,
            features,
            self.teacher.dim,
            spatial=pair if settings.spatial else None,
            masked=None if masks is None else pair,
            masks=masks,
        )

    def loss_terms(self) -> Sequence[LossTerm[EncoderStep]]:
        """The losses that the encoder learns from; one with a weight of 0 is not computed at all."""
        terms: list[LossTerm[EncoderStep]] = [VectorTerm()]
        if self.student.spatial_head is not None:
            terms.append(SpatialTerm(self.settings.spatial))
        if self.student.masked_head is not None:
            terms.append(MaskedTerm(self.settings.masked))
        return terms

    def batches(self, epoch: int) -> Iterator[Batch]:
        """See Trainer; checkpoints are saved at the ends of epochs only, so each starts at its first step."""
        settings = self.settings
        self.model.train()
        return self.data.loader.training(self.data.training, settings.batch_size, settings.seed, epoch)

    def losses(self, batch: Batch) -> Mapping[str, Mean]:
        """See Trainer: the loss terms, and the mean cosine of the two vectors before the step."""
        step = self._step(batch)
        means: dict[str, Mean] = {term.name: term(step) for term in self.terms}
        vectors = means[VectorTerm.name]
        return means | {"cosine": Mean(vectors.seen - vectors.total.detach() / 2, vectors.seen)}

    def _step(self, batch: Batch) -> EncoderStep:
        pixels = batch.pixels.to(self.device, non_blocking=True)
        taught = self.teacher(batch.positions, pixels)
        masked = self._masked(batch)
        with autocast(self.device, self.precision):
            outputs = self.model(self._inputs(pixels), masked)
        outputs = type(outputs)(*(None if part is None else part.float() for part in outputs))
        readable = torch.from_numpy(batch.readable).to(self.device, non_blocking=True)
        return EncoderStep(batch, readable, outputs, taught, masked)

    def _inputs(self, pixels: Tensor) -> Tensor:
        side = self.preprocess.input_size
        return self.preprocess.normalise(resized(pixels, side, side))

    def _masked(self, batch: Batch) -> Masked | None:
        """The masked images of this worker's share: drawn for the whole step, so that n workers mask what one would."""
        if self.masks is None:
            return None
        reporter, stream = self.reporter, (self.settings.seed, self.epoch, self.batch, MASKS)
        chosen, masks = draw_masks(len(batch.step_positions), self.masks.grid, stream)
        mine = chosen % reporter.world_size == reporter.rank
        rows, own = chosen[mine] // reporter.world_size, masks[mine]
        counts = np.ones(len(rows), bool)
        if not len(rows):
            rows, own, counts = np.zeros(1, np.int64), np.zeros((1, *self.masks.grid), bool), np.zeros(1, bool)
        of_share, of_patches, drawn = (torch.from_numpy(each).to(self.device) for each in (rows, own, counts))
        return Masked(of_share, of_patches, drawn, len(chosen))

    @torch.inference_mode()
    def measure(self) -> None:
        """See PhotoTrainer: cosine with the teacher, and common nearest neighbours, on centre crops."""
        held = self.data.held_out
        if not len(held):
            return
        self.student.eval()
        own, theirs = (torch.zeros(len(held), self.teacher.dim, device=self.device) for _ in range(2))
        found = torch.zeros(len(held), device=self.device)
        for batch in self.data.loader.validation(held, 4 * self.settings.batch_size):
            self.lost_here |= batch.failures
            if not len(batch.positions):  # fewer images than workers in the last batch
                continue
            pixels = batch.pixels.to(self.device, non_blocking=True)
            places = torch.from_numpy(np.searchsorted(held, batch.positions)).to(self.device)
            with autocast(self.device, self.precision):
                own[places] = self.student.encoder(self._inputs(pixels)).float()
            theirs[places] = self.teacher(batch.positions, pixels).vectors
            found[places] = torch.from_numpy(batch.readable).to(self.device).float()
        for each in (own, theirs, found):
            sum_over_workers(each, self.reporter.world_size)
        self.measured = _agreement(own[found > 0], theirs[found > 0])

    def measures(self, pace: Pace) -> dict[str, float]:
        """See Trainer; what was measured on held-out images after the epoch, if some are held out."""
        return self.measured | super().measures(pace)

    def diverged(self, loss: float, epoch: int) -> EncoderTrainingError:
        """See Trainer."""
        return EncoderTrainingError(
            f"the loss is not finite after epoch {epoch + 1}: lower distill.lr = {self.settings.lr}, or raise "
            "distill.warmup_epochs"
        )

    def save(self, folder: Path) -> None:
        """See PhotoTrainer."""
        # The head is part of the average: an averaged backbone would not match a head that is not.
        kept = {
            name.removeprefix("encoder."): value for name, value in self.learned.items() if name.startswith("encoder.")
        }
        facts = self.history[-1] if self.history else {}
        save_distilled(folder / LAST, self.job.spec, kept, self.job.identity, facts)
        state: dict[str, Any] = {"student": self.student.state_dict(), "optimiser": self.optimiser.state_dict()}
        if self.average is not None:
            state |= {"average": self.average.weights, "averaged_images": self.average.images}
        torch.save(state, folder / STATE_FILE)

    def _restore(self, folder: Path) -> None:
        """Continue from a checkpoint."""
        # To the CPU first: the GPU that wrote it may not exist here, or belong to another worker.
        state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
        self.student.load_state_dict(state["student"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            self.average.restore(state["average"], state["averaged_images"])
        self.restore_history(folder)


def _agreement(own: Tensor, theirs: Tensor) -> dict[str, float]:
    """Metrics of n images' vectors [n, d] by student and teacher; none where too few could be read."""
    if not len(own):
        return {}
    cosine = 1 - float(unit_distance(own, theirs).mean()) / 2
    measured = {"held_out_cosine": cosine}
    if len(own) - 1 > NEIGHBOURS and math.isfinite(cosine):
        measured["held_out_neighbours"] = neighbour_agreement(own.cpu().numpy(), theirs.cpu().numpy(), NEIGHBOURS)
    return measured


def _channels(backbone: Any, side: int) -> int | None:
    """Channels of a backbone's feature maps; None where it has none."""
    with torch.no_grad():
        features = backbone.eval().forward_features(torch.zeros(1, 3, side, side))
    grid = grid_of(backbone, features, side, side)
    return None if grid is None else int(grid.shape[3])


def _spared(backbone: nn.Module) -> tuple[str, ...]:
    """Names of weights that a timm model itself says should not decay, such as position embeddings."""
    names: Any = getattr(backbone, "no_weight_decay", tuple)
    return tuple(names())
