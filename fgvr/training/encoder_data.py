"""An encoder's job, and the images of one of its workers: opened, checked, and split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from fgvr.config import Clip, Distill, ImageLimits, TimmVectors
from fgvr.models.distilled import DistilledSpec
from fgvr.models.student import Preprocess
from fgvr.training.batches import Loader, steps_per_epoch
from fgvr.training.encoder_examples import EncoderExamples, EncoderTrainingError
from fgvr.training.reporter import Reporter
from fgvr.training.run_images import RunImages, open_images, split


@dataclass(frozen=True)
class EncoderJob:
    """Inputs of a training run; picklable, sent to each worker.

    Attributes:
        examples: URI of the examples' folder.
        spec: the student.
        settings: the recipe.
        limits: limits on reading an image.
        teacher: the encoder that teaches, pinned to its commit; None: the vectors of the examples do.
        identity: what identifies the teacher's space, for the model's folder; JSON types only.
        max_error_share: allowed share of unreadable images; see `allowed_failures`.
        cache: folder for decoded images on the worker's machine; None: that of `fgvr.disk_cache.IMAGES`.
    """

    examples: str
    spec: DistilledSpec
    settings: Distill
    limits: ImageLimits
    teacher: Clip | TimmVectors | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    max_error_share: float = 1.0
    cache: str | None = None


@dataclass(frozen=True)
class Pacing:
    """The recipe as the training loop takes it; see `fgvr.training.loop.EpochRecipe`."""

    epochs: int
    seed: int
    lr: float
    weight_decay: float
    warmup_epochs: float
    checkpoint_epochs: int
    momentum: float = 0.9  # AdamW's first beta
    schedule: Literal["milestones", "cosine"] = "cosine"
    milestones: tuple[int, ...] = ()

    @classmethod
    def of(cls, settings: Distill) -> Pacing:
        """With the learning rate for the configured batch size."""
        return cls(
            settings.epochs,
            settings.seed,
            settings.peak_rate,
            settings.weight_decay,
            settings.warmup_epochs,
            settings.checkpoint_epochs,
        )


def open_encoder_data(
    job: EncoderJob, examples: EncoderExamples, preprocess: Preprocess, reporter: Reporter, resumed: Path | None
) -> RunImages[EncoderExamples]:
    """Open the images of the examples.

    Args:
        job: the inputs of the run.
        examples: as `EncoderExamples.read` gives them.
        preprocess: sizes of the crops that student and teacher see.
        reporter: this worker's reporter.
        resumed: the checkpoint to resume from: what was left out at the start stays left out.

    Raises:
        EncoderTrainingError: too few images for the batch size and workers, or too many that cannot be read.
    """
    cuda, threads, settings = reporter.device.type == "cuda", torch.get_num_threads(), job.settings
    store, left_out = open_images(
        *(job, examples, reporter, resumed),
        preprocess=preprocess,
        cache_gb=settings.cache_gb,
        refused=EncoderTrainingError,
    )
    training, held_out = split(examples, left_out)
    _check_sizes(len(training), settings, reporter.world_size)
    loader = Loader(
        store=store,
        preprocess=preprocess,
        min_crop=settings.smallest_crop,
        rank=reporter.rank,
        world_size=reporter.world_size,
        threads=threads if cuda else 1,  # on a CPU the model needs the cores
        pin=cuda,
    )
    return RunImages(examples, loader, left_out, training, held_out)


def _check_sizes(images: int, settings: Distill, workers: int) -> None:
    """Check that every worker has at least two images in every step, which batch normalisation needs."""
    if images // steps_per_epoch(images, settings.batch_size) < 2 * workers:
        raise EncoderTrainingError(
            f"{images} images to learn from in batches of distill.batch_size = {settings.batch_size} leave fewer than "
            f"two images in a step for each of {workers} workers"
        )
