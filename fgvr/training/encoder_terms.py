"""The encoder in training with all of its heads, and the losses that it learns from (Proteus)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fgvr.encoders.distilled import DistilledEncoder, new_head
from fgvr.losses.encoder import grid_distance, masked_distance, unit_distance
from fgvr.models.feature_grid import PatchMasks, grid_of
from fgvr.training.batches import Batch
from fgvr.training.encoder_teacher import Taught
from fgvr.training.loop import Term


class Outputs(NamedTuple):
    """What the student gives for n images; maps at its own grid, in the teacher's channels.

    Attributes:
        vectors: float [n, d].
        grid: feature maps [n, h, w, C]; None without the spatial loss.
        masked: feature maps of the masked images [m, h, w, C]; None without the loss on masked patches.
    """

    vectors: Tensor
    grid: Tensor | None
    masked: Tensor | None


class Masked(NamedTuple):
    """The masked images of a worker's share.

    Attributes:
        rows: their rows in the share, int64 [m]; at least one, so that all weights have a gradient on every worker.
        masks: their masked patches, bool [m, h, w].
        counts: bool [m]: whether the image was drawn; False for the one that is only there to be there.
        in_step: number of drawn images of the whole step, over all workers.
    """

    rows: Tensor
    masks: Tensor
    counts: Tensor
    in_step: int


class EncoderStudent(nn.Module):
    """A distilled encoder with the further heads of its training, which are not kept.

    Attributes:
        encoder: what is kept: the backbone, and the head that maps into the teacher's space.
        spatial_head: features of a cell → the teacher's channels; None without the spatial loss.
        masked_head: likewise of masked patches; None without that loss.
        mask_token: stands for a masked patch, float32 [embedding].
    """

    def __init__(
        self,
        backbone: nn.Module,
        features: int,
        dim: int,
        *,
        spatial: tuple[int, int] | None = None,
        masked: tuple[int, int] | None = None,
        masks: PatchMasks | None = None,
    ) -> None:
        """`features`, `dim`: widths of backbone and teacher; `spatial`, `masked`: channels of student and teacher."""
        super().__init__()
        self.encoder = DistilledEncoder(backbone, new_head(features, dim))
        self.spatial_head = None if spatial is None else new_head(*spatial)
        self.masked_head = None if masked is None else new_head(*masked)
        self.masks = masks
        if self.masked_head is not None:
            if masks is None:
                raise ValueError("patches of this backbone cannot be masked")
            # As timm starts the tokens of its vision transformers; BEiT and iBOT likewise.
            self.mask_token = nn.Parameter(torch.randn(masks.width) * 0.02)

    def forward(self, pixels: Tensor, masked: Masked | None = None) -> Outputs:
        """Outputs for normalised images [n, 3, S, S]. Both passes are in one call, as DDP needs it."""
        backbone: Any = self.encoder.backbone
        grid = hidden = None
        if self.spatial_head is None:
            vectors = self.encoder(pixels)
        else:
            features = backbone.forward_features(pixels)
            vectors = self.encoder.head(backbone.forward_head(features))
            grid = self.spatial_head(_map(backbone, features, pixels))
        if self.masked_head is not None and self.masks is not None and masked is not None:
            chosen = pixels[masked.rows]
            with self.masks.masking(masked.masks, self.mask_token):
                features = backbone.forward_features(chosen)
            hidden = self.masked_head(_map(backbone, features, chosen))
        return Outputs(vectors, grid, hidden)


def _map(backbone: nn.Module, features: Tensor, pixels: Tensor) -> Tensor:
    found = grid_of(backbone, features, *pixels.shape[2:])
    if found is None:
        raise ValueError(f"{type(backbone).__name__} has no feature maps")
    return found


@dataclass(frozen=True)
class EncoderStep:
    """What an encoder learns from in one step: this worker's share.

    Attributes:
        batch: the images.
        readable: bool [n] on the device: images that could be read.
        outputs: what the student gives, float32.
        taught: what the teacher says.
        masked: the masked images; None without that loss.
    """

    batch: Batch
    readable: Tensor
    outputs: Outputs
    taught: Taught
    masked: Masked | None


class VectorTerm:
    """Squared distance of the unit vectors of student and teacher: 2 − 2 cos, as a mean over images."""

    name = "vector_loss"

    def __call__(self, step: EncoderStep) -> Term:
        """See LossTerm."""
        return _mean(unit_distance(step.outputs.vectors, step.taught.vectors), step, weight=1.0)


class SpatialTerm:
    """The same of the cells of feature maps, at the teacher's grid."""

    name = "spatial_loss"

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, step: EncoderStep) -> Term:
        """See LossTerm."""
        grid, taught = step.outputs.grid, step.taught.grid
        if grid is None or taught is None:
            raise ValueError("student and teacher need feature maps")
        return _mean(grid_distance(grid, taught), step, self.weight)


class MaskedTerm:
    """The same of masked patches: what the teacher, who sees them, has in their place."""

    name = "masked_loss"

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, step: EncoderStep) -> Term:
        """See LossTerm; a mean over the masked images."""
        grid, taught, masked = step.outputs.masked, step.taught.grid, step.masked
        if grid is None or taught is None or masked is None:
            raise ValueError("student and teacher need feature maps, and images masks")
        rows = masked_distance(grid, taught[masked.rows], masked.masks)
        mine = masked.counts & step.readable[masked.rows]
        return Term(torch.where(mine, rows, 0.0).sum(), mine.sum(), masked.in_step, self.weight)


def _mean(rows: Tensor, step: EncoderStep, weight: float) -> Term:
    """The mean over the readable images of a step, from this worker's rows [n]."""
    total = torch.where(step.readable, rows, 0.0).sum()
    return Term(total, step.readable.sum(), len(step.batch.step_positions), weight)
