"""A student's job, and the images that one of its workers learns from: opened, counted, and split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fgvr import storage
from fgvr.config import ImageLimits, Makd
from fgvr.errors import UserError
from fgvr.students.architecture import StudentSpec
from fgvr.training.batches import Loader, Positions, steps_per_epoch
from fgvr.training.examples import Examples
from fgvr.training.image_store import StoreSettings, open_store
from fgvr.training.left_out import LeftOut, too_many
from fgvr.training.reporter import Reporter

GIB = 2**30


class StudentTrainingError(UserError, ValueError):
    """A student that cannot be trained on these images; the message says why."""


@dataclass(frozen=True)
class StudentJob:
    """What a training is about; pickles, and travels to each worker.

    Attributes:
        examples: URI of the examples file.
        spec: the student; its questions are the first of those in the examples, none for the base student.
        settings: the recipe. `alpha` weighs the aspects.
        limits: of reading an image.
        max_error_share: of images that cannot be read; see `allowed_failures`.
        cache: folder for decoded images on the worker's machine; None: `fgvr.storage.cache_folder("images")`.
        teacher: URI of the teacher's folder (`fgvr.training.teacher`), where the settings distil one.
    """

    examples: str
    spec: StudentSpec
    settings: Makd
    limits: ImageLimits
    max_error_share: float = 1.0
    cache: str | None = None
    teacher: str | None = None


@dataclass(frozen=True)
class StudentData:
    """What one worker learns from.

    Attributes:
        examples: images and targets, with the student's questions only.
        loader: of batches.
        left_out: failures of the images that cannot be read, by position in the examples.
        training: positions of the images to train on.
        validation: positions of those to validate on.
    """

    examples: Examples
    loader: Loader
    left_out: LeftOut
    training: Positions
    validation: Positions


def open_student_data(job: StudentJob, reporter: Reporter) -> StudentData:
    """Read the examples and open their images.

    Raises:
        StudentTrainingError: too few images for the batch size and workers, or too many that cannot be read.
    """
    examples = Examples.read(job.examples).first_aspects(len(job.spec.questions))
    loader, left_out = _open_images(job, examples, reporter)
    training, validation = _split(examples, left_out)
    _check_sizes(len(training), job.settings, reporter)
    return StudentData(examples, loader, left_out, training, validation)


def _open_images(job: StudentJob, examples: Examples, reporter: Reporter) -> tuple[Loader, LeftOut]:
    """The loader, and the failures by position of the images that cannot be read."""
    cuda = reporter.device.type == "cuda"
    threads = torch.get_num_threads()
    root = storage.cache_folder("images") if job.cache is None else Path(job.cache)
    settings = StoreSettings(job.spec.preprocess, job.limits, int(job.settings.cache_gb * GIB), threads)
    store = open_store(root, examples.identity, examples.uris, settings)
    refusal = too_many(store.failures, len(examples), job.max_error_share, examples)
    if refusal is not None:
        raise StudentTrainingError(refusal)
    loader = Loader(
        store=store,
        preprocess=job.spec.preprocess,
        min_crop=job.settings.min_crop,
        rank=reporter.rank,
        world_size=reporter.world_size,
        threads=threads if cuda else 1,  # on a CPU the model needs the cores
        pin=cuda,
    )
    return loader, store.failures


def _split(examples: Examples, left_out: LeftOut) -> tuple[Positions, Positions]:
    """Positions of the images to train on, and of those to validate on."""
    readable = np.ones(len(examples), dtype=bool)
    readable[list(left_out)] = False
    return np.flatnonzero(readable & ~examples.held_out), np.flatnonzero(readable & examples.held_out)


def _check_sizes(images: int, settings: Makd, reporter: Reporter) -> None:
    """Batch normalisation needs two images a worker in every step."""
    smallest = images // steps_per_epoch(images, settings.batch_size)
    if smallest < 2 * reporter.world_size:
        raise StudentTrainingError(
            f"{images} training images in batches of makd.batch_size = {settings.batch_size} leave fewer than two "
            f"images in a step for each of {reporter.world_size} workers"
        )
