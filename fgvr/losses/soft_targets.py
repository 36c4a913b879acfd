"""Cross entropy with several probable classes per image, and with images that count differently."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fgvr.losses.makd import UNKNOWN_CLASS


def hard_rows(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross entropy of each image, float32 [n]; 0 without a class.

    Args:
        logits: float [n, C].
        classes: int64 [n]; −1 for none.
    """
    return functional.cross_entropy(logits.float(), classes, ignore_index=UNKNOWN_CLASS, reduction="none")


def soft_rows(logits: Tensor, label_ids: Tensor, probabilities: Tensor) -> Tensor:
    """Cross entropy of each image with its probable classes, −Σ_k p_k log softmax(logits)_k: float32 [n].

    The same as `torch.nn.functional.cross_entropy` with probabilities as the target, which would need one for every
    class.

    Args:
        logits: float [n, C].
        label_ids: int64 [n, k]; −1 in unused places.
        probabilities: float [n, k]; 0 there.
    """
    likely = functional.log_softmax(logits.float(), dim=1).gather(1, label_ids.clamp(min=0))
    return -(torch.where(label_ids >= 0, probabilities.float() * likely, 0.0)).sum(dim=1)
