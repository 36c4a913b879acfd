"""How a student sees a photo: the same few steps in training, validation and inference.

A photo is first shrunk to `stored_side` (the size in which training keeps decoded images), then cropped. Inference
does the same two steps as validation, on files read for the same `stored_side`: both see the same pixels. Crops are
taken from the photo before they are resized: a photo of 1 × 50,000 pixels never becomes a larger one on the way.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

Pixels = npt.NDArray[np.uint8]

STORED_PER_INPUT = 1.5
"""Stored shorter side over the input's: random crops keep most of their detail, and a photo costs 0.35 MB at 224 px."""


@dataclass(frozen=True)
class Preprocess:
    """Sizes and normalisation of a student's input.

    Attributes:
        input_size: side of the square input, pixels.
        resize: shorter side before the centre crop of validation and inference (paper: the input size itself;
            256 for 224 on ImageNet-like photos, whose subject is in the middle).
        stored_side: shorter side at most of a decoded image that is kept; smaller photos stay as they are.
        mean: of the RGB channels, for pixels in 0 … 1.
        std: likewise.
    """

    input_size: int
    resize: int
    stored_side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not 1 <= self.input_size <= self.resize:
            raise ValueError(f"resize {self.resize} is smaller than the input size {self.input_size}: no crop fits")

    def shrink(self, image: Pixels) -> Pixels:
        """The image with a shorter side of at most `stored_side`: uint8 [H, W, 3], its aspect ratio kept."""
        height, width = image.shape[:2]
        factor = self.stored_side / min(height, width)
        if factor >= 1:
            return image
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        return _pixels(cv2.resize(image, size, interpolation=cv2.INTER_AREA))

    def centre_crop(self, image: Pixels) -> Pixels:
        """The middle of the image as Resize(resize) and CenterCrop(input_size) take it, uint8 [S, S, 3]."""
        height, width = image.shape[:2]
        side = max(1, round(min(height, width) * self.input_size / self.resize))
        return self.crop(image, ((height - side) // 2, (width - side) // 2, side, side))

    def crop(self, image: Pixels, box: tuple[int, int, int, int], *, flip: bool = False) -> Pixels:
        """A box (top, left, height, width) of the image, resized to the input and perhaps mirrored, uint8 [S, S, 3]."""
        top, left, height, width = box
        part = image[top : top + height, left : left + width]
        # Bilinear interpolation looks at two pixels a side: shrinking by more than two would skip some.
        shrinks = min(height, width) > 2 * self.input_size
        size = (self.input_size, self.input_size)
        resized = cv2.resize(part, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        return _pixels(resized[:, ::-1] if flip else resized)

    def prepare(self, image: Image.Image) -> Pixels:
        """An RGB image of any size as the student's input before normalisation, uint8 [S, S, 3]."""
        return self.prepare_pixels(np.asarray(image if image.mode == "RGB" else image.convert("RGB")))

    def prepare_pixels(self, image: Pixels) -> Pixels:
        """The same of an image as an array, uint8 [H, W, 3]."""
        return np.ascontiguousarray(self.centre_crop(self.shrink(image)))

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """uint8 [N, S, S, 3] as the float32 input [N, 3, S, S], in channels-last memory as it came, on its device."""
        std, width = torch.tensor(self.std), batch.shape[2]
        # Made on the device they would make the CPU wait for all that a GPU has still to do. Repeated for a row of
        # pixels: along three channels a CPU works through them one by one.
        scale = (1 / (255 * std)).repeat(width).to(batch.device, non_blocking=True)
        shift = (torch.tensor(self.mean) / std).repeat(width).to(batch.device, non_blocking=True)
        rows = (batch.flatten(2).float() * scale).sub_(shift)
        return rows.view(batch.shape).permute(0, 3, 1, 2)


def _pixels(array: object) -> Pixels:
    """cv2's results, which have no precise type."""
    return np.asarray(array, dtype=np.uint8)
