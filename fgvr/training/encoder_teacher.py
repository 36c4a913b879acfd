"""Teachers of an encoder: stored vectors, a model of timm, or CLIP, which see the same crops as the student."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional

from fgvr.clip.model import ClipModel
from fgvr.encoders.distilled import DistilledEncoder
from fgvr.encoders.encoder import EncoderConfig, load_encoder
from fgvr.encoders.timm_model import TimmModel
from fgvr.models.feature_grid import grid_of
from fgvr.models.student import Preprocess
from fgvr.precision import Precision, autocast
from fgvr.training.encoder_examples import EncoderTrainingError, Halfs

Grid = tuple[int, int, int]
"""Rows, columns and channels of a feature map."""


@dataclass(frozen=True)
class Taught:
    """What a teacher says of n images.

    Attributes:
        vectors: in its space, float32 [n, d]; only their directions count.
        grid: its feature maps, float32 [n, h, w, C]; None without.
    """

    vectors: Tensor
    grid: Tensor | None = None


class EncoderTeacher(Protocol):
    """Says what an encoder should give for images.

    Attributes:
        dim: width of its vectors.
        side: side of its input, pixels; 0 where it needs no image.
        grid: its feature maps; None where it has none, or they are not asked for.
    """

    dim: int
    side: int
    grid: Grid | None

    def __call__(self, positions: np.ndarray[Any, np.dtype[np.int64]], pixels: Tensor) -> Taught:
        """The targets of images.

        Args:
            positions: the images' positions in the examples, int64 [n].
            pixels: their crops, uint8 [n, S, S, 3], on the teacher's device.
        """
        ...


class StoredVectors:
    """Vectors of whole images, whatever crop of them the student sees."""

    def __init__(self, vectors: Halfs, device: torch.device) -> None:
        """`vectors`: float16 [N, d], by position in the examples."""
        self.side = 0
        self.grid: Grid | None = None
        self.vectors, self.device, self.dim = vectors, device, int(vectors.shape[1])

    def __call__(self, positions: np.ndarray[Any, np.dtype[np.int64]], pixels: Tensor) -> Taught:
        """See EncoderTeacher."""
        rows = torch.from_numpy(self.vectors[positions].astype(np.float32))
        return Taught(rows.to(self.device, non_blocking=True))


class NetworkTeacher:
    """A frozen encoder that sees the crops at its own size and normalisation; its vectors are those that embed gives.

    Attributes:
        encoder: the encoder as embed loads it.
        spatial: whether its feature maps are asked for.
    """

    def __init__(self, encoder: TimmModel | ClipModel, precision: Precision, *, spatial: bool) -> None:
        self.encoder, self.precision, self.spatial = encoder, precision, spatial
        self.network: Any = encoder.network.visual if isinstance(encoder, ClipModel) else encoder.network
        self.size, mean, std = _input_of(encoder)
        self.side = max(self.size)
        # Only its normalisation is used: crops were made by the student's preprocessing.
        self._input = Preprocess(1, 1, 1, mean, std)
        first = self(np.zeros(1, np.int64), torch.zeros(1, self.side, self.side, 3, dtype=torch.uint8).to(self.device))
        self.dim = int(first.vectors.shape[1])
        self.grid = None if first.grid is None else cast("Grid", tuple(first.grid.shape[1:]))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.encoder.device

    @torch.no_grad()
    def __call__(self, positions: np.ndarray[Any, np.dtype[np.int64]], pixels: Tensor) -> Taught:
        """See EncoderTeacher."""
        inputs = self._input.normalise(resized(pixels, *self.size))
        with autocast(self.device, self.precision):
            vectors, grid = self._features(inputs)
        return Taught(vectors.float(), None if grid is None else grid.float())

    def _features(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        network = self.network
        if not self.spatial:
            return network(inputs), None
        match self.encoder:
            case TimmModel():
                headed = isinstance(network, DistilledEncoder)
                return _mapped(network.backbone if headed else network, network.head if headed else None, inputs)
            case ClipModel():
                return _clip_mapped(network, inputs)


def _input_of(
    encoder: TimmModel | ClipModel,
) -> tuple[tuple[int, int], tuple[float, float, float], tuple[float, float, float]]:
    """Height and width, mean and standard deviation of an encoder's input."""
    if isinstance(encoder, ClipModel):
        visual: Any = encoder.network.visual
        size = visual.image_size
        height, width = size if isinstance(size, tuple | list) else (size, size)
        mean, std = visual.image_mean, visual.image_std
    else:
        network = encoder.network
        facts = resolve_model_data_config(network.backbone if isinstance(network, DistilledEncoder) else network)
        _, height, width = facts["input_size"]
        mean, std = facts["mean"], facts["std"]
    return (int(height), int(width)), (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _mapped(backbone: Any, head: nn.Module | None, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
    """Vectors and feature maps of a timm model, from one pass."""
    features = backbone.forward_features(inputs)
    pooled = backbone.forward_head(features)
    return pooled if head is None else head(pooled), grid_of(backbone, features, *inputs.shape[2:])


def _clip_mapped(visual: Any, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
    """Projected vectors and the feature maps before the projection, of open_clip's image towers."""
    if hasattr(visual, "trunk"):  # a model of timm
        return _mapped(visual.trunk, visual.head, inputs)
    if hasattr(visual, "layer4"):  # a modified ResNet
        found: list[Tensor] = []
        hook = visual.layer4.register_forward_hook(lambda *call: found.append(call[2]))
        vectors = visual(inputs)
        hook.remove()
        return vectors, found[0].permute(0, 2, 3, 1)
    if not hasattr(visual, "output_tokens") or not hasattr(visual, "grid_size"):
        return visual(inputs), None
    before, visual.output_tokens = visual.output_tokens, True
    try:
        vectors, tokens = visual(inputs)
    finally:
        visual.output_tokens = before
    rows, columns = visual.grid_size
    if tokens.shape[1] != rows * columns:  # pooled by attention: no longer the patches
        return vectors, None
    return vectors, tokens.reshape(len(tokens), rows, columns, tokens.shape[2])


def resized(pixels: Tensor, height: int, width: int) -> Tensor:
    """Crops [n, S, S, 3] at another size, [n, height, width, 3], as float32 in 0 … 255; unchanged at the same size."""
    if pixels.shape[1:3] == (height, width):
        return pixels
    first = pixels.permute(0, 3, 1, 2).float()
    again = functional.interpolate(first, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return again.permute(0, 2, 3, 1).contiguous()


def open_encoder_teacher(
    config: EncoderConfig | None,
    vectors: Halfs | None,
    device: torch.device,
    precision: Precision,
    *,
    spatial: bool = False,
    asked: bool = False,
) -> EncoderTeacher:
    """Open a teacher.

    Args:
        config: the encoder that teaches; None: stored vectors do.
        vectors: the stored vectors, float16 [N, d].
        device: where it computes.
        precision: precision of a network.
        spatial: whether feature maps are wanted where it has any.
        asked: whether they are demanded.

    Raises:
        EncoderTrainingError: feature maps are demanded of a network that has none.
        ClipError, TimmError: the encoder cannot be found, fetched or used.
    """
    if config is None:
        if vectors is None:
            raise ValueError("neither an encoder nor vectors teach")
        return StoredVectors(vectors, device)
    teacher = NetworkTeacher(
        cast("TimmModel | ClipModel", load_encoder(config, device, precision)), precision, spatial=spatial
    )
    if asked and teacher.grid is None:
        raise EncoderTrainingError(
            "distill.spatial_weight: the teacher's network has no feature maps; leave spatial_weight and masked_weight "
            "out, or set them to 0"
        )
    return teacher


def common_input(student: Preprocess, side: int) -> Preprocess:
    """The preprocessing of crops that student and teacher see: at the larger of both inputs, the student's otherwise.

    Args:
        student: the student's preprocessing.
        side: side of the teacher's input, pixels; 0 where it sees none.
    """
    if side <= student.input_size:
        return student
    larger = side / student.input_size
    return replace(
        student,
        input_size=side,
        resize=round(student.resize * larger),
        stored_side=round(student.stored_side * larger),
    )
