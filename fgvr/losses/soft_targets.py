"""Cross entropy with several probable classes per image, and with images that count differently."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fgvr.losses.makd import UNKNOWN_CLASS


def hard_rows(logits: Tensor, classes: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross entropy of each image, float32 [n]; 0 without a class.

    Args:
        logits: float [n, C].
        classes: int64 [n]; −1 for none.
        smoothing: share of each target that is spread over all C classes.
    """
    return functional.cross_entropy(
        logits.float(), classes, ignore_index=UNKNOWN_CLASS, reduction="none", label_smoothing=smoothing
    )


def soft_rows(logits: Tensor, label_ids: Tensor, probabilities: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross entropy of each image with its probable classes, −Σ_k p_k log softmax(logits)_k: float32 [n].

    The same as `torch.nn.functional.cross_entropy` with probabilities as the target, which would need one for every
    class.

    Args:
        logits: float [n, C].
        label_ids: int64 [n, k]; −1 in unused places.
        probabilities: float [n, k]; 0 there.
        smoothing: share of each target that is spread over all C classes.
    """
    likely = functional.log_softmax(logits.float(), dim=1)
    some = label_ids >= 0
    rows = -torch.where(some, probabilities.float() * likely.gather(1, label_ids.clamp(min=0)), 0.0).sum(dim=1)
    if not smoothing:
        return rows
    return (1 - smoothing) * rows - smoothing * torch.where(some.any(dim=1), likely.mean(dim=1), 0.0)
