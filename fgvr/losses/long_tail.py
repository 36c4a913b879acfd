"""Losses for classes of very different sizes: weights of inverse frequency, and seesaw.

Shapes: `logits` float [N, C]; `labels` int64 [N], −1 for an image without a label, which counts as zero loss; `counts`
[C], the number of training images per class. Everything in fp32 (fp64 for fp64 logits).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from fgvr.losses.pll import cross_entropy

NO_LABEL = -1
SEESAW_P, SEESAW_Q = 0.8, 0.2
"""Exponents of mitigation and compensation. The paper's q is 2; 0.2 is that of the heads on stored vectors from which
this comes (DS@GT, FungiCLEF 2024)."""


def inverse_frequency(counts: Tensor) -> Tensor:
    """Weights ∝ 1 / count with mean 1 over the classes that have images, 0 for the others: fp32 [C].

    Counts must be those of the *training* images: a weight proportional to the frequency, or one from validation
    counts, does the opposite of what is meant.
    """
    counts = counts.float()
    inverse = torch.where(counts > 0, 1.0 / counts.clamp(min=1.0), 0.0)
    present = int((counts > 0).sum())
    return inverse * (present / inverse.sum()) if present else inverse


def balanced_cross_entropy(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Σ_i w_{y_i} CE_i / Σ_i w_{y_i} with the weights of `inverse_frequency`: a scalar; 0 where no image has a label.

    Over all training images every class contributes alike, however many images it has.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    weights = inverse_frequency(counts).to(wide)
    total = F.cross_entropy(wide, labels, weight=weights, ignore_index=NO_LABEL, reduction="sum")
    known = labels != NO_LABEL
    return total / weights[labels[known]].sum() if known.any() else total


def seesaw_loss(logits: Tensor, labels: Tensor, counts: Tensor, p: float = SEESAW_P, q: float = SEESAW_Q) -> Tensor:
    """mean_i −log(e^{z_y} / (Σ_{j≠y} M_yj C_yj e^{z_j} + e^{z_y})): a scalar.

        M_ij = min(1, N_j / N_i)^p     rare classes are pushed down less by images of frequent ones
        C_ij = max(1, σ_j / σ_i)^q     and more where they are actually confused; σ the softmax, not differentiated

    Wang et al., "Seesaw Loss for Long-Tailed Instance Segmentation" (CVPR 2021), eqs. 3 to 6; with all N_j from the
    start instead of counting them during training, since they are known. With equal counts and no errors it is the
    cross entropy. Classes without images count as if they had one.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    own = labels.clamp(min=0)[:, None]
    sizes = counts.to(wide).clamp(min=1.0).log()
    mitigation = p * (sizes[None, :] - sizes[own]).clamp(max=0.0)
    # The softmax's denominator cancels in σ_j / σ_i, so that logits far below the top cannot underflow.
    compensation = q * (wide - wide.gather(1, own)).detach().clamp(min=0.0)
    return cross_entropy(wide + mitigation + compensation, labels)
