"""Batches of an epoch: order, crops and flips depend only on (seed, epoch, step).

So a resumed run continues with exactly the same batches, and a step's images are the same for one worker and for
many, which split them. Threads prefetch the crops of a few batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from fgvr.images.pixels import TRIES, crop_box
from fgvr.images.read import ImageError
from fgvr.models.student import Pixels, Preprocess
from fgvr.prefetch import read_ahead
from fgvr.training.checkpoint import LeftOut
from fgvr.training.image_store import ImageStore
from fgvr.training.mixing import Mix, Mixing
from fgvr.training.rand_augment import DRAWS, RandAugment
from fgvr.training.swaps import NO_PICTURE, Swaps

Positions = npt.NDArray[np.int64]
Cut = Callable[[Pixels, int], list[Pixels]]
"""Makes the views of an image, given its row in the step."""
CHANGED, MIXED, SWAPPED = 1, 2, 3
"""Ends of the random streams of RandAugment, mixing and swapping; those of crops end with the view."""


@dataclass(frozen=True)
class Batch:
    """One worker's share of a step.

    Attributes:
        views: each uint8 [n, S, S, 3], in pinned memory if requested: further views are other crops of the same images.
        positions: int64 [n], the images' positions in the examples.
        step_positions: positions of the whole step over all workers, over which the losses are averaged.
        failures: failures of unreadable images of the share, by position: their pixels are 0, and they have no targets.
            Of mixed images those of the partners, too.
        partners: int64 [n], positions of the images that these are mixed with; None where nothing is mixed.
        share: share of the images themselves in the mixed pixels.
    """

    views: tuple[torch.Tensor, ...]
    positions: Positions
    step_positions: Positions
    failures: LeftOut
    partners: Positions | None = None
    share: float = 1.0

    def of_partners(self) -> Batch | None:
        """The same pixels as a batch of the partners; None where nothing is mixed."""
        if self.partners is None:
            return None
        return replace(self, positions=self.partners, partners=None)

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
        augment: changes each crop of training further; None: crops and flips only.
        augment_first: changes the first view, too.
        mixing: mixes the images of a training step in pairs, all views alike; None: they stay apart.
        swaps: shows generated pictures in place of some photos of a training step; None: photos only.
    """

    store: ImageStore
    preprocess: Preprocess
    min_crop: float
    rank: int = 0
    world_size: int = 1
    threads: int = 1
    pin: bool = False
    views: int = 1
    augment: RandAugment | None = None
    augment_first: bool = True
    mixing: Mixing | None = None
    swaps: Swaps | None = None

    def training(self, positions: Positions, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """This worker's shares of an epoch's batches, with random crops and flips."""
        return self.in_steps(epoch_steps(positions, batch_size, seed, epoch), seed, epoch)

    def in_steps(self, steps: Sequence[Positions], seed: int, epoch: int) -> Iterator[Batch]:
        """The same for an epoch whose steps have these images, in this order."""
        numbered = list(enumerate(steps))
        return read_ahead(lambda item: self._augmented(item[1], (seed, epoch, item[0])), numbered, threads=self.threads)

    def validation(self, positions: Positions, batch_size: int) -> Iterator[Batch]:
        """This worker's shares of all `positions`, centre crops in order, including the last batch."""
        starts = range(0, len(positions), batch_size)
        steps = [positions[start : start + batch_size] for start in starts]
        return read_ahead(self._centred, steps, threads=self.threads)

    def _augmented(self, step: Positions, stream: tuple[int, int, int]) -> Batch:
        crop = self._random_crops(len(step), stream)
        shown = None if self.swaps is None else self.swaps.draw(step, np.random.default_rng((*stream, 0, SWAPPED)))
        mine = np.arange(len(step))[self.rank :: self.world_size]
        if self.mixing is None:
            return self._batch(step, mine, crop, self.views, shown)
        theirs = len(step) - 1 - mine
        rows = np.union1d(mine, theirs)  # a partner may be in another worker's share: then both cut it
        cut = self._batch(step, rows, crop, self.views, shown)
        mix = self.mixing.draw(np.random.default_rng((*stream, 0, MIXED)), self.preprocess.input_size)
        places = np.searchsorted(rows, mine), np.searchsorted(rows, theirs)
        views = tuple(self._mixed(view, *places, mix) for view in cut.views)
        return Batch(views, step[mine], step, cut.failures, step[theirs], mix.share)

    def _random_crops(self, images: int, stream: tuple[int, int, int]) -> Cut:
        """Cuts the views of an image by its row in the whole step."""
        streams = [stream, *((*stream, view) for view in range(1, self.views))]
        draws = [np.random.default_rng(each).random((images, 2 * TRIES + 3)) for each in streams]
        shape = (images, 0 if self.augment is None else self.augment.operations, DRAWS)
        further = [np.random.default_rng((*stream, view, CHANGED)).random(shape) for view in range(self.views)]

        def cut(image: Pixels, row: int) -> list[Pixels]:
            crops = [self._random_crop(image, draw[row]) for draw in draws]
            if self.augment is None:
                return crops
            spared = 0 if self.augment_first else 1
            changed = zip(crops[spared:], further[spared:], strict=True)
            return crops[:spared] + [self.augment(crop, more[row]) for crop, more in changed]

        return cut

    def _random_crop(self, image: Pixels, draw: npt.NDArray[np.float64]) -> Pixels:
        box = crop_box(image.shape[0], image.shape[1], self.min_crop, draw[:-1])
        return self.preprocess.crop(image, box, flip=bool(draw[-1] < 0.5))

    def _mixed(self, view: torch.Tensor, mine: Positions, theirs: Positions, mix: Mix) -> torch.Tensor:
        images = view.numpy()
        mixed = torch.from_numpy(mix.mixed(images[mine], images[theirs]))
        return mixed.pin_memory() if self.pin else mixed

    def _centred(self, step: Positions) -> Batch:
        mine = np.arange(len(step))[self.rank :: self.world_size]
        return self._batch(step, mine, lambda image, _: [self.preprocess.centre_crop(image)], 1)

    def _batch(self, step: Positions, rows: Positions, cut: Cut, views: int, shown: Positions | None = None) -> Batch:
        """`shown`: the picture in place of each image of the step, as `Swaps.draw` gives it."""
        positions = step[rows]
        shape = (len(positions), *2 * (self.preprocess.input_size,), 3)
        pixels = tuple(torch.zeros(shape, dtype=torch.uint8, pin_memory=self.pin) for _ in range(views))
        arrays = [view.numpy() for view in pixels]
        failures: LeftOut = {}
        for place, (row, position) in enumerate(zip(rows.tolist(), positions.tolist(), strict=True)):
            try:
                crops = cut(self._image(position, NO_PICTURE if shown is None else int(shown[row])), row)
            except ImageError as error:  # only images beyond the store's limit can fail here; all others were counted
                failures[position] = error.failure
                continue
            for array, crop in zip(arrays, crops, strict=True):
                array[place] = crop
        return Batch(pixels, positions, step, failures)

    def _image(self, position: int, picture: int) -> Pixels:
        """The photo at a position, or the picture in its place; raises ImageError."""
        return self.store[position] if self.swaps is None or picture == NO_PICTURE else self.swaps.store[picture]


def epoch_steps(positions: Positions, batch_size: int, seed: int, epoch: int) -> list[Positions]:
    """An epoch's batches over all workers: every image once, in random order; batch sizes differ by at most one.

    No image is left out and no batch is tiny: batch normalisation would fail on a last batch of one image.
    """
    order = np.random.default_rng((seed, epoch)).permutation(positions)
    return np.array_split(order, steps_per_epoch(len(positions), batch_size))


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Number of batches of at most `batch_size` for all images."""
    return max(1, math.ceil(images / batch_size))
