"""Batches of an epoch: order, crops and flips depend only on (seed, epoch, step).

So a resumed run continues with exactly the same batches, and a step's images are the same for one worker and for
many, which split them. Threads prefetch the crops of a few batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fgvr.images.pixels import TRIES, crop_box
from fgvr.images.read import ImageError
from fgvr.models.student import Pixels, Preprocess
from fgvr.prefetch import read_ahead
from fgvr.training.checkpoint import LeftOut
from fgvr.training.image_store import ImageStore

Positions = npt.NDArray[np.int64]
Cut = Callable[[Pixels, int], list[Pixels]]
"""Makes the views of an image, given its row in the worker's share."""


@dataclass(frozen=True)
class Batch:
    """One worker's share of a step.

    Attributes:
        views: each uint8 [n, S, S, 3], in pinned memory if requested: further views are other crops of the same images.
        positions: int64 [n], the images' positions in the examples.
        step_positions: positions of the whole step over all workers, over which the losses are averaged.
        failures: failures of unreadable images of the share, by position: their pixels are 0, and they have no targets.
    """

    views: tuple[torch.Tensor, ...]
    positions: Positions
    step_positions: Positions
    failures: LeftOut

    @property
    def pixels(self) -> torch.Tensor:
        """The first view."""
        return self.views[0]

    @property
    def readable(self) -> npt.NDArray[np.bool_]:
        """Which images of the share could be read, bool [n]."""
        return np.array([position not in self.failures for position in self.positions.tolist()], dtype=bool)


@dataclass(frozen=True)
class Loader:
    """Makes batches of crops from stored images.

    Attributes:
        store: the images.
        preprocess: the student's input.
        min_crop: smallest share of an image's area that a random crop keeps.
        rank: this worker's rank.
        world_size: number of workers.
        threads: threads that cut crops ahead of the training loop; 0: none.
        pin: put pixels into pinned memory, for faster transfer to a GPU.
        views: random crops per image in training; the first is the same for any number of views.
    """

    store: ImageStore
    preprocess: Preprocess
    min_crop: float
    rank: int = 0
    world_size: int = 1
    threads: int = 1
    pin: bool = False
    views: int = 1

    def training(self, positions: Positions, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """This worker's shares of an epoch's batches, with random crops and flips."""
        steps = list(enumerate(epoch_steps(positions, batch_size, seed, epoch)))
        return read_ahead(lambda item: self._augmented(item[1], (seed, epoch, item[0])), steps, threads=self.threads)

    def validation(self, positions: Positions, batch_size: int) -> Iterator[Batch]:
        """This worker's shares of all `positions`, centre crops in order, including the last batch."""
        starts = range(0, len(positions), batch_size)
        steps = [positions[start : start + batch_size] for start in starts]
        return read_ahead(self._centred, steps, threads=self.threads)

    def _augmented(self, step: Positions, stream: tuple[int, int, int]) -> Batch:
        streams = [stream, *((*stream, view) for view in range(1, self.views))]
        draws = [np.random.default_rng(each).random((len(step), 2 * TRIES + 3)) for each in streams]
        mine = slice(self.rank, None, self.world_size)

        def cut(image: Pixels, row: int) -> list[Pixels]:
            return [self._random_crop(image, draw[mine][row]) for draw in draws]

        return self._batch(step, cut, self.views)

    def _random_crop(self, image: Pixels, draw: npt.NDArray[np.float64]) -> Pixels:
        box = crop_box(image.shape[0], image.shape[1], self.min_crop, draw[:-1])
        return self.preprocess.crop(image, box, flip=bool(draw[-1] < 0.5))

    def _centred(self, step: Positions) -> Batch:
        return self._batch(step, lambda image, _: [self.preprocess.centre_crop(image)], 1)

    def _batch(self, step: Positions, cut: Cut, views: int) -> Batch:
        positions = step[self.rank :: self.world_size]
        shape = (len(positions), *2 * (self.preprocess.input_size,), 3)
        pixels = tuple(torch.zeros(shape, dtype=torch.uint8, pin_memory=self.pin) for _ in range(views))
        arrays = [view.numpy() for view in pixels]
        failures: LeftOut = {}
        for row, position in enumerate(positions.tolist()):
            try:
                crops = cut(self.store[position], row)
            except ImageError as error:  # only images beyond the store's limit can fail here; all others were counted
                failures[position] = error.failure
                continue
            for array, crop in zip(arrays, crops, strict=True):
                array[row] = crop
        return Batch(pixels, positions, step, failures)


def epoch_steps(positions: Positions, batch_size: int, seed: int, epoch: int) -> list[Positions]:
    """An epoch's batches over all workers: every image once, in random order; batch sizes differ by at most one.

    No image is left out and no batch is tiny: batch normalisation would fail on a last batch of one image.
    """
    order = np.random.default_rng((seed, epoch)).permutation(positions)
    return np.array_split(order, steps_per_epoch(len(positions), batch_size))


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Number of batches of at most `batch_size` for all images."""
    return max(1, math.ceil(images / batch_size))
