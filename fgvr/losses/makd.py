"""MaKD's loss: cross entropy on the class outputs, binary cross entropy with the MLLM's p(yes) on the aspect outputs.

Multi-aspect knowledge distillation (eq. 3): L = CE(z[:, :C], y) + α · BCE(σ(z[:, C:C+Q]), p), both as means. Rows and
cells without a target are left out of the means instead of being counted as zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

UNKNOWN_CLASS = -1
"""Class target of an image that has none."""


@dataclass(frozen=True)
class MakdTerms:
    """Sums of the two losses and how many targets they run over (scalar float32 tensors).

    Apart from each other, so that the means of a batch that is spread over workers can be formed over the whole batch.
    """

    class_sum: Tensor
    class_count: Tensor
    aspect_sum: Tensor
    aspect_count: Tensor

    def loss(self, alpha: float) -> Tensor:
        """Mean over classes + `alpha` · mean over aspect cells; a mean over nothing is 0."""
        return mean(self.class_sum, self.class_count) + alpha * mean(self.aspect_sum, self.aspect_count)


def mean(total: Tensor, count: Tensor) -> Tensor:
    """`total / count`, and 0 (with a gradient of 0) where there is nothing to average."""
    return total / count.clamp(min=1)


def makd_terms(outputs: Tensor, classes: Tensor, aspects: Tensor, aspect_mask: Tensor | None = None) -> MakdTerms:
    """The sums and counts behind `makd_loss`; arguments as there."""
    questions = aspects.shape[1] if aspects.dim() == 2 else -1
    class_count = outputs.shape[1] - questions
    if questions < 0 or class_count < 1 or aspects.shape[0] != outputs.shape[0]:
        raise ValueError(
            f"outputs {tuple(outputs.shape)} cannot hold at least one class output and one output for each of the "
            f"aspects {tuple(aspects.shape)}"
        )
    outputs = outputs.float()  # under autocast the sums would be bf16
    class_sum = functional.cross_entropy(outputs[:, :class_count], classes, ignore_index=UNKNOWN_CLASS, reduction="sum")
    cells = _cells(aspects, aspect_mask)
    # Masked cells may hold nan: replaced before the loss, since nan · 0 is nan in its gradient, too.
    targets = torch.where(cells, aspects.float(), 0.5)
    cell_losses = functional.binary_cross_entropy_with_logits(outputs[:, class_count:], targets, reduction="none")
    return MakdTerms(
        class_sum=class_sum,
        class_count=(classes != UNKNOWN_CLASS).sum().float(),
        aspect_sum=torch.where(cells, cell_losses, 0.0).sum(),
        aspect_count=cells.sum().float(),
    )


def makd_loss(
    outputs: Tensor, classes: Tensor, aspects: Tensor, alpha: float, aspect_mask: Tensor | None = None
) -> Tensor:
    """CE(outputs[:, :C], classes) + alpha · BCE with logits(outputs[:, C:C+Q], aspects), a scalar.

    Args:
        outputs: logits, float [N, C + Q]; Q is the width of `aspects` and may be 0 (a student without aspects).
        classes: int64 [N]; −1 where the class is unknown.
        aspects: p(yes) in 0 … 1, float [N, Q]; anything, nan too, where masked.
        alpha: weight of the aspect loss (paper: 4).
        aspect_mask: bool [N] or [N, Q], True where the target counts; None: everywhere.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    return makd_terms(outputs, classes, aspects, aspect_mask).loss(alpha)


def _cells(aspects: Tensor, aspect_mask: Tensor | None) -> Tensor:
    """The mask spread to bool [N, Q]."""
    if aspect_mask is None:
        return torch.ones_like(aspects, dtype=torch.bool)
    mask = aspect_mask.bool()
    if mask.dim() == 1 and mask.shape[0] == aspects.shape[0]:
        return mask[:, None].expand_as(aspects)
    if mask.shape != aspects.shape:
        raise ValueError(
            f"aspect_mask {tuple(mask.shape)} fits neither images nor cells of the aspects {tuple(aspects.shape)}"
        )
    return mask
