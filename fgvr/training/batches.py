"""Batches of an epoch: order, crops and flips follow from (seed, epoch, step) alone.

So a resumed training continues with the very same batches, and a step's images are the same for one worker and for
many, of whom each takes its share. Threads cut the crops a few batches ahead of the training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fgvr.images import ImageError
from fgvr.read_ahead import read_ahead
from fgvr.students.preprocess import Pixels, Preprocess
from fgvr.training.image_store import ImageStore
from fgvr.training.left_out import LeftOut

TRIES = 10
RATIO = (3 / 4, 4 / 3)
Positions = npt.NDArray[np.int64]
Cut = Callable[[Pixels, int], Pixels]


@dataclass(frozen=True)
class Batch:
    """One worker's share of a step.

    Attributes:
        pixels: uint8 [n, S, S, 3], in pinned memory if asked for.
        positions: int64 [n], the images' positions in the examples.
        step_positions: those of the whole step over all workers, over which the losses are averaged.
        failures: of images of the share that could not be read, by position: their pixels are 0, they have no targets.
    """

    pixels: torch.Tensor
    positions: Positions
    step_positions: Positions
    failures: LeftOut

    @property
    def readable(self) -> npt.NDArray[np.bool_]:
        """Which images of the share could be read, bool [n]."""
        return np.array([position not in self.failures for position in self.positions.tolist()], dtype=bool)


@dataclass(frozen=True)
class Loader:
    """Cuts batches from stored images.

    Attributes:
        store: the images.
        preprocess: the student's input.
        min_crop: smallest share of an image's area that a random crop keeps.
        rank: this worker.
        world_size: all workers.
        threads: that cut ahead of the training; 0: none.
        pin: put pixels into pinned memory, for a quick way to a GPU.
    """

    store: ImageStore
    preprocess: Preprocess
    min_crop: float
    rank: int = 0
    world_size: int = 1
    threads: int = 1
    pin: bool = False

    def training(self, positions: Positions, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """This worker's shares of an epoch's batches, with random crops and flips."""
        steps = list(enumerate(epoch_steps(positions, batch_size, seed, epoch)))
        return read_ahead(lambda item: self._augmented(item[1], (seed, epoch, item[0])), steps, threads=self.threads)

    def validation(self, positions: Positions, batch_size: int) -> Iterator[Batch]:
        """This worker's shares of all `positions`, centre crops in their order, the last batch included."""
        starts = range(0, len(positions), batch_size)
        steps = [positions[start : start + batch_size] for start in starts]
        return read_ahead(self._centred, steps, threads=self.threads)

    def _augmented(self, step: Positions, stream: tuple[int, int, int]) -> Batch:
        draws = np.random.default_rng(stream).random((len(step), 2 * TRIES + 3))
        mine = slice(self.rank, None, self.world_size)

        def cut(image: Pixels, row: int) -> Pixels:
            draw = draws[mine][row]
            box = crop_box(image.shape[0], image.shape[1], self.min_crop, draw[:-1])
            return self.preprocess.crop(image, box, flip=bool(draw[-1] < 0.5))

        return self._batch(step, cut)

    def _centred(self, step: Positions) -> Batch:
        return self._batch(step, lambda image, _: self.preprocess.centre_crop(image))

    def _batch(self, step: Positions, cut: Cut) -> Batch:
        positions = step[self.rank :: self.world_size]
        side = self.preprocess.input_size
        pixels = torch.zeros((len(positions), side, side, 3), dtype=torch.uint8, pin_memory=self.pin)
        view = pixels.numpy()
        failures: LeftOut = {}
        for row, position in enumerate(positions.tolist()):
            try:
                view[row] = cut(self.store[position], row)
            except ImageError as error:  # only images beyond the store's bound can fail here; it counted all others
                failures[position] = error.failure
        return Batch(pixels, positions, step, failures)


def epoch_steps(positions: Positions, batch_size: int, seed: int, epoch: int) -> list[Positions]:
    """An epoch's batches over all workers: every image once, in random order, sizes equal within one image.

    None is left out and no batch is tiny: batch normalisation fails on a last batch of one.
    """
    order = np.random.default_rng((seed, epoch)).permutation(positions)
    return np.array_split(order, steps_per_epoch(len(positions), batch_size))


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches of at most `batch_size` that hold all images."""
    return max(1, math.ceil(images / batch_size))


def crop_box(height: int, width: int, min_crop: float, draw: npt.NDArray[np.float64]) -> tuple[int, int, int, int]:
    """A random box (top, left, height, width) as torchvision's RandomResizedCrop draws it.

    Area uniform in `min_crop` … 1 of the image's, aspect ratio log-uniform in 3/4 … 4/3, uniform place; ten tries,
    then the largest centre crop of an allowed ratio.

    Args:
        height: of the image.
        width: of the image.
        min_crop: smallest share of the area.
        draw: numbers uniform in 0 … 1: (area, ratio) for each try, then the place (top, left).
    """
    top, left = draw[2 * TRIES], draw[2 * TRIES + 1]
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for number in range(TRIES):
        area = height * width * (min_crop + (1 - min_crop) * draw[2 * number])
        ratio = math.exp(low + (high - low) * draw[2 * number + 1])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    if width / height < RATIO[0]:
        w, h = width, round(width / RATIO[0])
    elif width / height > RATIO[1]:
        w, h = round(height * RATIO[1]), height
    else:
        w, h = width, height
    w, h = max(1, min(w, width)), max(1, min(h, height))
    return (height - h) // 2, (width - w) // 2, h, w
