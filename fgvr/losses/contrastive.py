"""Supervised contrastive losses between kinds of views of a photo: its pixels, its texts, its metadata.

Khosla et al., "Supervised Contrastive Learning" (NeurIPS 2020), L_out, between two kinds of views, in both directions;
summed over all pairs of kinds as "Fine-Grained Classification: Connecting Metadata via Cross-Contrastive Pre-Training"
(arXiv 2504.20322) does for three: six terms. The public notebook of the paper leaves out the normalisation and the
positives by class; here both are.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

NO_CLASS = -1


def supcon_rows(one: Tensor, other: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """−1/|P(i)| Σ_{p ∈ P(i)} ln softmax_j(one_i · other_j / τ)_p for each i: float [n].

    P(i) are the j of i's class, i itself included, since `other` is another kind of view. The least possible is
    ln |P(i)|, not 0. Rows without a class are 0, and are nobody's negatives.

    Args:
        one: float [n, d]; normalised here.
        other: float [n, d].
        classes: int64 [n]; −1 without a class.
        temperature: τ.
    """
    known = classes != NO_CLASS
    logits = F.normalize(one.float(), dim=1) @ F.normalize(other.float(), dim=1).T / temperature
    logits = logits.masked_fill(~known[None, :], torch.finfo(logits.dtype).min)
    positive = (classes[:, None] == classes[None, :]) & known[:, None] & known[None, :]
    surprise = torch.where(positive, -logits.log_softmax(dim=1), 0.0)
    return torch.where(known, surprise.sum(dim=1) / positive.sum(dim=1).clamp(min=1), 0.0)


def cross_contrastive_rows(views: Sequence[Tensor], classes: Tensor, temperature: float) -> Tensor:
    """The sum of `supcon_rows` over all ordered pairs of views: two terms for two kinds, six for three; float [n]."""
    pairs = permutations(views, 2)
    return torch.stack([supcon_rows(one, other, classes, temperature) for one, other in pairs]).sum(dim=0)
