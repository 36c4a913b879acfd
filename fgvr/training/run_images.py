"""The images of a training run as one of its workers has them: opened, checked, and split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from fgvr import disk_cache, storage
from fgvr.config import ImageLimits
from fgvr.errors import UserError
from fgvr.models.student import Preprocess
from fgvr.training.batches import Loader, Positions
from fgvr.training.checkpoint import LeftOut, over_workers, read_left_out, too_many
from fgvr.training.image_store import ImageStore, StoreSettings, open_store
from fgvr.training.reporter import Reporter


class ImageJob(Protocol):
    """The part of a training run's job that says how images are read."""

    @property
    def limits(self) -> ImageLimits:
        """Limits on reading an image."""

    @property
    def max_error_share(self) -> float:
        """Allowed share of unreadable images; see `allowed_failures`."""

    @property
    def cache(self) -> str | None:
        """Folder for decoded images on the worker's machine; None: that of `fgvr.disk_cache.IMAGES`."""


class RunExamples(Protocol):
    """Images to learn from, and to measure on."""

    @property
    def image_ids(self) -> npt.NDArray[np.int64]:
        """Their ids, int64 [N]."""

    @property
    def uris(self) -> Sequence[str]:
        """Where they are."""

    @property
    def held_out(self) -> npt.NDArray[np.bool_]:
        """Which of them are measured instead of learned from, bool [N]."""

    @property
    def identity(self) -> str:
        """What determines their content, see `fgvr.training.image_store`."""

    def __len__(self) -> int: ...


E = TypeVar("E", bound=RunExamples)


@dataclass(frozen=True)
class RunImages(Generic[E]):
    """The images of one worker.

    Attributes:
        examples: all images of the run, and what is learned about them.
        loader: makes the batches.
        left_out: failures of unreadable images, by position in the examples.
        training: positions of the images that are learned from.
        held_out: positions of the images that are measured instead.
    """

    examples: E
    loader: Loader
    left_out: LeftOut
    training: Positions
    held_out: Positions


def open_images(
    job: ImageJob,
    examples: RunExamples,
    reporter: Reporter,
    resumed: Path | None,
    *,
    preprocess: Preprocess,
    cache_gb: float,
    refused: type[UserError],
) -> tuple[ImageStore, LeftOut]:
    """The store of decoded images, and the failures of unreadable ones by position: the same on every worker.

    Args:
        job: how images are read.
        examples: N images.
        reporter: this worker's reporter.
        resumed: the checkpoint to resume from: what was left out at the start stays left out; else all are tried.
        preprocess: sizes of the crops.
        cache_gb: disk space for decoded images, in GiB.
        refused: the error where too many cannot be read.
    """
    store = store_of(job, examples.uris, examples.identity, preprocess=preprocess, cache_gb=cache_gb)
    # Each machine reads for itself, and one may be able to read what another cannot.
    failures = over_workers(store.failures, reporter.world_size)
    left_out = failures if resumed is None else read_left_out(resumed)
    refusal = too_many(left_out | failures, len(examples), job.max_error_share, examples)
    if refusal is not None:
        raise refused(f"{refusal}. The same command tries them again and goes on when they are back")
    return store, left_out


def store_of(
    job: ImageJob, uris: Sequence[str], identity: str, *, preprocess: Preprocess, cache_gb: float
) -> ImageStore:
    """The store of decoded images at these URIs; arguments as in `open_images`."""
    root = storage.cache_folder(disk_cache.IMAGES) if job.cache is None else Path(job.cache)
    settings = StoreSettings(preprocess, job.limits, int(cache_gb * disk_cache.GIB), torch.get_num_threads())
    return open_store(root, identity, uris, settings)


def split(examples: RunExamples, left_out: LeftOut) -> tuple[Positions, Positions]:
    """Positions of the images that are learned from, and of those held out; without those left out."""
    readable = np.ones(len(examples), dtype=bool)
    readable[list(left_out)] = False
    return np.flatnonzero(readable & ~examples.held_out), np.flatnonzero(readable & examples.held_out)
