"""Partial-label losses: an image has a *set* of candidate labels, one of which may be true.

Shapes throughout: `logits` float [N, C] over the whole label space; `weights` float [N, C], zero outside an
image's candidate set and summing to 1 inside it; `candidate_mask` bool [N, C]. Every loss is the mean over the N
images, in fp32 (fp64 for fp64 logits). A row without candidates counts as zero loss.

A logit that is NaN or +inf in an image with candidates makes the loss NaN: a broken model is noticed at once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention


def _wide(logits: Tensor) -> Tensor:
    """At least fp32: half precision is not enough for a softmax over thousands of labels."""
    return logits if logits.dtype == torch.float64 else logits.float()


def proden_weights(logits: Tensor, candidate_mask: Tensor) -> Tensor:
    """w_ij = p_ij / Σ_{j'∈S_i} p_ij' on the candidate set S_i, zero elsewhere; detached, [N, C].

    Lv et al., "Progressive Identification of True Labels for Partial-Label Learning" (ICML 2020), eq. 8. The
    set comes from the mask, never from earlier weights: a weight that underflowed to zero may rise again.
    """
    masked = _wide(logits.detach()).masked_fill(~candidate_mask, -torch.inf)
    # The softmax of a row that is all -inf is NaN: rows without candidates get zeros.
    return masked.softmax(dim=1).masked_fill(~candidate_mask.any(dim=1, keepdim=True), 0.0)


def cavl_weights(logits: Tensor, candidate_mask: Tensor) -> Tensor:
    """1 for the candidate with the highest class activation value |v − 1| · v of its logit v, else 0; detached, [N, C].

    Zhang et al., "Exploiting Class Activation Value for Partial-Label Learning" (ICLR 2022); the value is that of
    the authors' code. CAVL starts with uniform weights and uses `proden_loss`. For logits above 1, such as CLIP's, the
    values have the order of the logits: CAVL then trusts the most probable candidate alone, while PRODEN splits.
    """
    logits = _wide(logits.detach())
    value = ((logits - 1).abs() * logits).masked_fill(~candidate_mask, -torch.inf)
    chosen = F.one_hot(value.argmax(dim=1), logits.shape[1]).to(logits.dtype)
    broken = (logits.isnan() & candidate_mask).any(dim=1, keepdim=True)
    return chosen.masked_fill(broken, torch.nan).masked_fill(~candidate_mask.any(dim=1, keepdim=True), 0.0)


def proden_loss(logits: Tensor, weights: Tensor) -> Tensor:
    """−mean_i Σ_j w_ij log p_ij, p the softmax over all labels: a scalar (PRODEN, eq. 5; also for RC and CAVL)."""
    return _weighted(F.log_softmax(_wide(logits), dim=1), weights)


def lws_loss(logits: Tensor, weights: Tensor, candidate_mask: Tensor, beta: float = 1.0) -> Tensor:
    """−mean_i (Σ_{j∈S_i} w_ij log p_ij + β Σ_{j∉S_i} v_ij log(1 − p_ij)): a scalar.

    Wen et al., "Leveraged Weighted Loss for Partial Label Learning" (ICML 2021), with the cross entropy as binary
    loss: it does not change if all logits of an image are shifted. The paper's other choice, the sigmoid of a single
    logit, is flat at CLIP's logits of 20 to 30. v are the probabilities of the labels outside the set, renormalised,
    from these logits; w is updated as in PRODEN. The paper's β is 1 or 2.
    """
    outside = ~candidate_mask & candidate_mask.any(dim=1, keepdim=True)
    inner = proden_loss(logits, weights)
    return inner + beta * _weighted(_log_of_the_rest(_wide(logits)), proden_weights(logits, outside))


def _weighted(log_p: Tensor, weights: Tensor) -> Tensor:
    """−mean_i Σ_j w_ij log p_ij, where 0 · log 0 is 0 and not NaN."""
    return -(weights * log_p.masked_fill(weights == 0, 0.0)).sum(dim=1).mean()


def _log_of_the_rest(logits: Tensor) -> Tensor:
    """log(1 − p_ij) of the softmax, [N, C]; exact even if p rounds to 1, as it does for CLIP's sharp logits."""
    log_p = F.log_softmax(logits, dim=1)
    top = F.one_hot(logits.detach().argmax(dim=1), logits.shape[1]).bool()
    others = logits.masked_fill(top, -torch.inf).logsumexp(dim=1, keepdim=True)
    # Only the most probable label can be near 1; using the others' value in its place keeps the gradient finite.
    rest = torch.log1p(-log_p.masked_fill(top, -torch.inf).exp())
    return torch.where(top, others - logits.logsumexp(dim=1, keepdim=True), rest)


def cc_loss(logits: Tensor, candidate_mask: Tensor) -> Tensor:
    """−mean_i log Σ_{j∈S_i} p_ij: a scalar (classifier-consistent; Feng et al., NeurIPS 2020, eq. 12).

    Some candidate should be probable, no matter which one: the criterion for held-out images.
    """
    logits = _wide(logits)
    has_candidates = candidate_mask.any(dim=1)
    # Rows without candidates: any finite numerator will do, since the result is replaced by zero.
    numerator = logits.masked_fill(~candidate_mask & has_candidates[:, None], -torch.inf).logsumexp(dim=1)
    return torch.where(has_candidates, logits.logsumexp(dim=1) - numerator, 0.0).mean()


def gce_loss(logits: Tensor, weights: Tensor, q: float = 0.7) -> Tensor:
    """mean_i Σ_j w_ij (1 − p_ij^q) / q: a scalar; uniform weights make it the average-based ABS-GCE.

    q → 0 is cross-entropy, q = 1 the mean absolute error, which best tolerates candidate sets that miss the truth
    (Zhang & Sabuncu, NeurIPS 2018; Lv et al., "On the Robustness of Average Losses for Partial-Label
    Learning", 2021). Raises ValueError for q outside (0, 1].
    """
    if not 0.0 < q <= 1.0:
        raise ValueError(f"gce_loss: q must be in (0, 1], not {q}")
    log_p = F.log_softmax(_wide(logits), dim=1)
    return (weights * -torch.expm1(q * log_p) / q).sum(dim=1).mean()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with one label per image, int64 [N]; −1 (no label) counts as zero loss: a scalar."""
    per_image = F.cross_entropy(_wide(logits), labels, ignore_index=-1, reduction="none")
    return per_image.mean()
