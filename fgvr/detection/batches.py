"""Batches of a detector's training run: order and flips depend only on (seed, epoch, step)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fgvr.config.data import ImageLimits
from fgvr.detection.examples import DetectionExamples
from fgvr.images.read import ImageError, read_image
from fgvr.prefetch import read_ahead
from fgvr.schemas import Failure, Reason
from fgvr.training.batches import Positions, epoch_steps
from fgvr.training.checkpoint import LeftOut

BLANK = 64
"""Side in pixels of the blank image that replaces a share without any readable image."""


@dataclass(frozen=True)
class DetectionBatch:
    """One worker's share of a step.

    Attributes:
        pixels: uint8 [3, H, W] of each image.
        targets: for each image boxes float32 [n, 4] and labels int64 [n] (class + 1) in torchvision's form, no crowds.
        positions: int64, positions of the images in the examples.
        step_positions: positions of the whole step over all workers, including unreadable images.
        failures: images of the share that became unreadable, by position; they are not in `pixels`, `targets` and
            `positions`. If no image is left, `pixels` holds one blank image, so that the worker can take part in the
            step; `positions` is empty then.
    """

    pixels: list[Tensor]
    targets: list[dict[str, Tensor]]
    positions: Positions
    step_positions: Positions
    failures: LeftOut


@dataclass(frozen=True)
class DetectionLoader:
    """Reads batches; worker `rank` of `world_size` gets its share of every step, prefetched by `threads` threads."""

    examples: DetectionExamples
    limits: ImageLimits
    rank: int = 0
    world_size: int = 1
    threads: int = 1

    def training(self, positions: Positions, batch_size: int, seed: int, epoch: int) -> Iterator[DetectionBatch]:
        """This worker's shares of an epoch's batches; half of the images are mirrored."""
        steps = list(enumerate(epoch_steps(positions, batch_size, seed, epoch)))
        return read_ahead(lambda item: self._batch(item[1], (seed, epoch, item[0])), steps, threads=self.threads)

    def unreadable(self, positions: Positions) -> LeftOut:
        """Failures, by position, of those of `positions` that cannot be read."""
        failures = read_ahead(self._failure, positions.tolist(), threads=self.threads)
        return {int(place): failure for place, failure in zip(positions, failures, strict=True) if failure is not None}

    def _batch(self, step: Positions, stream: tuple[int, int, int]) -> DetectionBatch:
        flips = np.random.default_rng(stream).random(len(step)) < 0.5
        mine = slice(self.rank, None, self.world_size)
        pixels, targets, readable, failures = [], [], [], {}
        for position, flip in zip(step[mine].tolist(), flips[mine], strict=True):
            image = self.examples.images[position]
            try:
                read = self._read(position)
            except ImageError as error:
                failures[position] = error.failure
                continue
            learned = ~image.objects.crowd
            boxes, classes = image.objects.boxes[learned], image.objects.classes[learned]
            if flip:
                read, boxes = mirrored(read, boxes)
            pixels.append(torch.from_numpy(np.ascontiguousarray(read.transpose(2, 0, 1))))
            targets.append({"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(classes + 1)})
            readable.append(position)
        if not pixels:
            pixels.append(torch.zeros((3, BLANK, BLANK), dtype=torch.uint8))
            targets.append({"boxes": torch.zeros((0, 4)), "labels": torch.zeros(0, dtype=torch.int64)})
        return DetectionBatch(pixels, targets, np.array(readable, dtype=np.int64), step, failures)

    def _read(self, position: int) -> npt.NDArray[np.uint8]:
        image = self.examples.images[position]
        return read_pixels(self.examples.uris[position], (image.width, image.height), self.limits)

    def _failure(self, position: int) -> Failure | None:
        try:
            self._read(position)
        except ImageError as error:
            return error.failure
        return None


def read_pixels(uri: str, size: tuple[int, int], limits: ImageLimits) -> npt.NDArray[np.uint8]:
    """Pixels uint8 [H, W, 3] of an image with boxes; `size` is (width, height) from its annotations file.

    Raises:
        ImageError: as `read_image`, and WRONG_SIZE if its size is not the one its boxes were drawn for.
    """
    read = read_image(uri, limits)
    if read.size != size:
        raise ImageError(
            Reason.WRONG_SIZE,
            f"{uri} has {read.width} × {read.height} pixels, its annotations are for {size[0]} × {size[1]}",
        )
    return np.asarray(read)


def mirrored(pixels: npt.NDArray[Any], boxes: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Mirror left and right: pixels [H, W, 3] and boxes [n, 4]."""
    width = np.float32(pixels.shape[1])
    left, top, right, bottom = boxes.T
    return pixels[:, ::-1], np.stack([width - right, top, width - left, bottom], axis=1)
