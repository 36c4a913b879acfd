"""A student's job, and the images of one of its workers: opened, checked, and split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fgvr.config import ImageLimits, Makd
from fgvr.errors import UserError
from fgvr.models.student import StudentSpec
from fgvr.training.batches import Loader, steps_per_epoch
from fgvr.training.checkpoint import LeftOut, over_workers
from fgvr.training.examples import Examples
from fgvr.training.mixing import Mixing
from fgvr.training.rand_augment import RandAugment
from fgvr.training.reporter import Reporter
from fgvr.training.run_images import RunImages, open_images, split, store_of
from fgvr.training.swaps import Pictures, Swaps


class StudentTrainingError(UserError, ValueError):
    """The student cannot be trained on these images; the message says why."""


@dataclass(frozen=True)
class StudentJob:
    """Inputs of a training run; picklable, sent to each worker.

    Attributes:
        examples: URI of the examples' folder.
        spec: the student; its questions are the first of those in the examples, or none for the base student.
        settings: the recipe. `alpha` is the weight of the aspects.
        limits: limits on reading an image.
        max_error_share: allowed share of unreadable images; see `allowed_failures`.
        cache: folder for decoded images on the worker's machine; None: that of `fgvr.disk_cache.IMAGES`.
        teacher: URI of the teacher's folder (`fgvr.training.teacher`), if the settings use distillation.
        all_asked: whether the MLLM was asked about each image; see `AspectTerm` and `DistillationTerm`.
        start: URI of the file of weights to start from (`Start.tensors` of `fgvr.models.start_match`), if the settings
            name any.
        signatures: URI of an array float32 [C, K], the signature of each class (`fgvr.mllm.signature_worker`), nan for
            classes without one; None where the student has no choice questions.
        pictures: URI of the folder of generated pictures that stand in for photos (`fgvr.training.swaps`); None: there
            are none.
        metadata: URI of an array float16 [N, dim], the features of each image (`fgvr.metadata.fitted`); None where the
            student sees photos alone.
    """

    examples: str
    spec: StudentSpec
    settings: Makd
    limits: ImageLimits
    max_error_share: float = 1.0
    cache: str | None = None
    teacher: str | None = None
    all_asked: bool = True
    start: str | None = None
    signatures: str | None = None
    pictures: str | None = None
    metadata: str | None = None


def open_student_data(
    job: StudentJob, reporter: Reporter, resumed: Path | None = None, *, views: int = 1
) -> RunImages[Examples]:
    """Read the examples and open their images.

    Args:
        job: the inputs of the run.
        reporter: this worker's reporter.
        resumed: the checkpoint to resume from. The images that were left out at the start stay left out; any other
            start tries all of them.
        views: random crops per image in a batch.

    Raises:
        StudentTrainingError: too few images for the batch size and workers, or too many that cannot be read.
    """
    examples = Examples.read(job.examples).first_aspects(len(job.spec.questions))
    loader, left_out = _open_images(job, examples, reporter, resumed, views)
    training, held_out = split(examples, left_out)
    _check_sizes(len(training), job.settings, reporter)
    return RunImages(examples, loader, left_out, training, held_out)


def _open_images(
    job: StudentJob, examples: Examples, reporter: Reporter, resumed: Path | None, views: int
) -> tuple[Loader, LeftOut]:
    """The loader, and the failures of unreadable images by position: the same on every worker."""
    cuda = reporter.device.type == "cuda"
    threads = torch.get_num_threads()
    store, left_out = open_images(
        *(job, examples, reporter, resumed),
        preprocess=job.spec.preprocess,
        cache_gb=job.settings.cache_gb,
        refused=StudentTrainingError,
    )
    loader = Loader(
        store=store,
        preprocess=job.spec.preprocess,
        min_crop=job.settings.min_crop,
        rank=reporter.rank,
        world_size=reporter.world_size,
        threads=threads if cuda else 1,  # on a CPU the model needs the cores
        pin=cuda,
        views=views,
        augment=_augment(job),
        augment_first=job.settings.trainer != "semi",  # whose teacher sees photos as they are
        mixing=Mixing(job.settings.mixup, job.settings.cutmix) if job.settings.mixes else None,
        swaps=None if job.pictures is None else _open_pictures(job, job.pictures, reporter),
    )
    return loader, left_out


def _open_pictures(job: StudentJob, uri: str, reporter: Reporter) -> Swaps:
    """The generated pictures, decoded like photos; raises StudentTrainingError where one cannot be read."""
    pictures = Pictures.read(uri)
    # Nothing is cut off a picture: what it was made from has lost its edge already.
    whole = replace(job, limits=job.limits.model_copy(update={"cut_bottom": 0}))
    store = store_of(
        *(whole, pictures.uris, pictures.identity),
        preprocess=job.spec.preprocess,
        cache_gb=job.settings.cache_gb,
    )
    lost = over_workers(store.failures, reporter.world_size)
    if lost:
        first = next(iter(lost.values()))
        raise StudentTrainingError(
            f"{len(lost)} of {len(pictures.uris)} generated pictures cannot be read ({first.reason}: {first.detail}); "
            "they lie in the run's own table `synthetic`: start again where that can be read, or set augment.alpha to 0"
        )
    return Swaps(pictures, store)


def _augment(job: StudentJob) -> RandAugment | None:
    """RandAugment as configured; what it turns in from outside of a crop has the mean colour of the student's input."""
    settings = job.settings
    if not settings.operations:
        return None
    red, green, blue = (round(255 * mean) for mean in job.spec.preprocess.mean)
    return RandAugment(settings.operations, settings.randaugment_magnitude, (red, green, blue))


def _check_sizes(images: int, settings: Makd, reporter: Reporter) -> None:
    """Check that every worker has at least two images in every step, which batch normalisation needs."""
    smallest = images // steps_per_epoch(images, settings.batch_size)
    if smallest < 2 * reporter.world_size:
        raise StudentTrainingError(
            f"{images} training images in batches of makd.batch_size = {settings.batch_size} leave fewer than two "
            f"images in a step for each of {reporter.world_size} workers"
        )


def bounded_by_steps(settings: Makd, images: int) -> Makd:
    """The recipe with as few epochs as `max_steps` allows, but at least one; unchanged if it has no more anyway.

    Milestones, warm-up and frozen epochs keep their relative positions in the run, in whole epochs.

    Args:
        settings: the recipe.
        images: number of training images.
    """
    if settings.max_steps is None:
        return settings
    most = max(1, settings.max_steps // steps_per_epoch(images, settings.batch_size))
    if most >= settings.epochs:
        return settings
    share = most / settings.epochs
    metadata = settings.metadata
    before = min(most - 1, round(metadata.pretrain_epochs * share))
    return settings.model_copy(
        update={
            **(
                {"metadata": metadata.model_copy(update={"pretrain_epochs": before})}
                if metadata.pretrain_epochs
                else {}
            ),
            "epochs": most,
            "milestones": tuple(round(milestone * share) for milestone in settings.milestones),
            "warmup_epochs": round(settings.warmup_epochs * share),
            "freeze_epochs": max(min(1, settings.freeze_epochs), round(settings.freeze_epochs * share)),
        }
    )
