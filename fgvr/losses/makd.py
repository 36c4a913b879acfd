"""MaKD's loss: cross entropy on the class outputs, binary cross entropy on the aspect outputs with the MLLM's p(yes).

Multi-aspect knowledge distillation (eq. 3): L = CE(z[:, :C], y) + α · BCE(σ(z[:, C:C+Q]), p), both as means. Rows and
cells without a target are excluded from the means instead of counting as zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

AspectLoss = Literal["bce", "kl", "softmax_kl"]
"""`bce`: the paper's loss. `kl`: KL((p, 1 − p) ‖ (σ(z), 1 − σ(z))) = BCE − H(p), with the gradients of `bce`.
`softmax_kl`: KL(p / Σp ‖ softmax(z)) over the aspects of an image, which ignores how probable a "yes" is and only
compares the image's aspects; the mean is over images."""

UNKNOWN_CLASS = -1
"""Class target of an image without one."""


@dataclass(frozen=True)
class MakdTerms:
    """Sums of the two losses and the numbers of their targets (scalar float32 tensors).

    Kept separate, so that the means of a batch that is spread over workers can be computed over the whole batch.
    """

    class_sum: Tensor
    class_count: Tensor
    aspect_sum: Tensor
    aspect_count: Tensor

    def loss(self, alpha: float) -> Tensor:
        """Mean over classes + `alpha` · mean over aspect cells; a mean over nothing is 0."""
        return mean(self.class_sum, self.class_count) + alpha * mean(self.aspect_sum, self.aspect_count)


def mean(total: Tensor, count: Tensor) -> Tensor:
    """`total / count`, or 0 (with a gradient of 0) if there is nothing to average."""
    return total / count.clamp(min=1)


def makd_terms(
    outputs: Tensor, classes: Tensor, aspects: Tensor, aspect_mask: Tensor | None = None, kind: AspectLoss = "bce"
) -> MakdTerms:
    """The sums and counts behind `makd_loss`; arguments as there, and the kind of the aspect loss."""
    questions = aspects.shape[1] if aspects.dim() == 2 else -1
    class_count = outputs.shape[1] - questions
    if questions < 0 or class_count < 1 or aspects.shape[0] != outputs.shape[0]:
        raise ValueError(
            f"outputs {tuple(outputs.shape)} cannot hold at least one class output and one output for each of the "
            f"aspects {tuple(aspects.shape)}"
        )
    return MakdTerms(
        *class_sum(outputs[:, :class_count], classes),
        *aspect_sum(outputs[:, class_count:], aspects, aspect_mask, kind),
    )


def class_sum(logits: Tensor, classes: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Sum of the cross entropies of logits [N, C] with classes [N], and the number of images with a class: scalars.

    `smoothing` is the share of each target that is spread over all C classes (Szegedy et al., CVPR 2016, section 7).
    """
    # In fp32: under autocast the sums would be bf16.
    total = functional.cross_entropy(
        logits.float(), classes, ignore_index=UNKNOWN_CLASS, reduction="sum", label_smoothing=smoothing
    )
    return total, (classes != UNKNOWN_CLASS).sum().float()


def aspect_sum(
    logits: Tensor, aspects: Tensor, aspect_mask: Tensor | None = None, kind: AspectLoss = "bce"
) -> tuple[Tensor, Tensor]:
    """Sum of the aspect losses of logits [N, Q], and the number of targets (`aspect_counts`): scalars."""
    cells = _cells(aspects, aspect_mask)
    return _aspect_sum(logits.float(), aspects, cells, kind), aspect_counts(aspects, cells, kind).sum().float()


def aspect_counts(aspects: Tensor, cells: Tensor, kind: AspectLoss) -> Tensor:
    """Each image's count in the mean of the aspect loss, int64 [N]: its cells; for `softmax_kl` 0 or 1.

    Args:
        aspects: p(yes), float [N, Q]; any value where masked.
        cells: bool [N, Q], True if the target counts.
        kind: kind of aspect loss; an image without any probability of "yes" has no `softmax_kl`.
    """
    if kind == "softmax_kl":
        return (torch.where(cells, aspects, 0.0).sum(dim=1) > 0).long()
    return cells.sum(dim=1)


def _aspect_sum(logits: Tensor, aspects: Tensor, cells: Tensor, kind: AspectLoss) -> Tensor:
    if kind == "softmax_kl":
        return _softmax_kl_sum(logits, torch.where(cells, aspects.float(), 0.0), cells)
    # Masked cells may be nan: replace them before the loss, since nan · 0 is nan, in the gradient too.
    targets = torch.where(cells, aspects.float(), 0.5)
    losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if kind == "kl":
        losses = losses + torch.xlogy(targets, targets) + torch.xlogy(1 - targets, 1 - targets)
    return torch.where(cells, losses, 0.0).sum()


def _softmax_kl_sum(logits: Tensor, p_yes: Tensor, cells: Tensor) -> Tensor:
    """Σ over images of KL(p / Σp ‖ softmax over the image's cells); `p_yes` is 0 where masked."""
    mass = p_yes.sum(dim=1, keepdim=True)
    learned = cells | (mass == 0)  # a softmax over no cells is nan; such images are left out below
    log_q = logits.masked_fill(~learned, -torch.inf).log_softmax(dim=1).masked_fill(~learned, 0.0)
    losses = functional.kl_div(log_q, p_yes / torch.where(mass > 0, mass, 1.0), reduction="none")
    return torch.where(mass > 0, losses, 0.0).sum()


def makd_loss(
    outputs: Tensor, classes: Tensor, aspects: Tensor, alpha: float, aspect_mask: Tensor | None = None
) -> Tensor:
    """CE(outputs[:, :C], classes) + alpha · BCE with logits(outputs[:, C:C+Q], aspects), a scalar.

    Args:
        outputs: logits, float [N, C + Q]; Q is the width of `aspects` and may be 0 (a student without aspects).
        classes: int64 [N]; −1 if the class is unknown.
        aspects: p(yes) in 0 … 1, float [N, Q]; any value, even nan, where masked.
        alpha: weight of the aspect loss (paper: 4).
        aspect_mask: bool [N] or [N, Q], True if the target counts; None: all count.

    Raises:
        ValueError: the shapes do not match.
    """
    return makd_terms(outputs, classes, aspects, aspect_mask).loss(alpha)


def _cells(aspects: Tensor, aspect_mask: Tensor | None) -> Tensor:
    """The mask expanded to bool [N, Q]."""
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
