"""Partial-label losses: an image has a *set* of candidate labels, one of which may be true.

Shapes throughout: `logits` float [N, C] over the whole label space; `weights` float [N, C], zero outside an
image's candidate set and of sum 1 inside it; `candidate_mask` bool [N, C]. Every loss is the mean over the N
images, in fp32 whatever the dtype of the logits. A row without candidates counts as zero loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention


def proden_weights(logits: Tensor, candidate_mask: Tensor) -> Tensor:
    """w_ij = p_ij / Σ_{j'∈S_i} p_ij' on the candidate set S_i, zero elsewhere; detached, float32 [N, C].

    Lv et al., "Progressive Identification of True Labels for Partial-Label Learning" (ICML 2020), eq. 8. The
    set comes from the mask, never from earlier weights: a weight that underflowed to zero may rise again.
    """
    masked = logits.detach().float().masked_fill(~candidate_mask, -torch.inf)
    # softmax of a row that is -inf throughout is NaN: rows without candidates get zeros.
    return torch.nan_to_num(masked.softmax(dim=1), nan=0.0)


def proden_loss(logits: Tensor, weights: Tensor) -> Tensor:
    """−mean_i Σ_j w_ij log p_ij with p the softmax over all labels: a scalar (PRODEN, eq. 5; RC uses the same)."""
    log_p = F.log_softmax(logits.float(), dim=1)
    # 0 · log 0 is 0 here, not NaN.
    return -(weights * log_p.masked_fill(weights == 0, 0.0)).sum(dim=1).mean()


def cc_loss(logits: Tensor, candidate_mask: Tensor) -> Tensor:
    """−mean_i log Σ_{j∈S_i} p_ij: a scalar (classifier-consistent; Feng et al., NeurIPS 2020, eq. 12).

    It asks that *some* candidate be likely and does not say which: the criterion for held-out images.
    """
    logits = logits.float()
    has_candidates = candidate_mask.any(dim=1)
    # Rows without candidates: any finite numerator will do, the result is replaced by zero.
    numerator = logits.masked_fill(~candidate_mask & has_candidates[:, None], -torch.inf).logsumexp(dim=1)
    return torch.where(has_candidates, logits.logsumexp(dim=1) - numerator, 0.0).mean()


def gce_loss(logits: Tensor, weights: Tensor, q: float = 0.7) -> Tensor:
    """mean_i Σ_j w_ij (1 − p_ij^q) / q: a scalar; uniform weights make it the average-based ABS-GCE.

    q → 0 is cross-entropy, q = 1 the mean absolute error, which tolerates candidate sets that miss the truth
    (Zhang & Sabuncu, NeurIPS 2018; Lv et al., "On the Robustness of Average Losses for Partial-Label
    Learning", 2021). Raises ValueError for q outside (0, 1].
    """
    if not 0.0 < q <= 1.0:
        raise ValueError(f"gce_loss: q must be in (0, 1], not {q}")
    log_p = F.log_softmax(logits.float(), dim=1)
    return (weights * -torch.expm1(q * log_p) / q).sum(dim=1).mean()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy on one label an image, int64 [N]; −1 (no label) counts as zero loss: a scalar."""
    per_image = F.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="none")
    return per_image.mean()
