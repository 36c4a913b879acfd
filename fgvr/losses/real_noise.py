"""Rules for the noise that real labellers make: it depends on the image (POP), and rare names lose (RECORDS).

Both learn from PRODEN's loss (`fgvr.losses.pll.proden_loss`) and change how its weights follow from predictions, so
they serve every trainer that has candidate sets and logits. Shapes as in `fgvr.losses.pll`: N images, C labels;
candidates may also stand in K columns instead of C.

POP, and not ABLE (Lyu et al., "Ambiguity-Induced Contrastive Learning for Instance-Dependent Partial Label Learning",
IJCAI 2022), the other method for noise that depends on the image: ABLE adds a contrastive loss on the image's
embedding. In NeaR and in heads on stored vectors that embedding is frozen, so that it would have nothing to train; POP
needs nothing but the candidates' weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from fgvr.losses.pll import proden_weights

MOST_THRESHOLD = 0.4
"""POP's threshold grows no further than this (the authors' code)."""
FEW_CHANGES = 1e-4
"""POP's threshold grows when fewer than this share of all N · C cells left their sets."""
PRIOR_FLOOR = 1e-9
"""Added to the class prior before its logarithm (the authors' code)."""


def purified(mean_weights: Tensor, kept: Tensor, threshold: float) -> Tensor:
    """Which candidates stay: bool [N, K], never fewer than one of an image that has any.

    A candidate leaves its set for good when its weight, the mean over the last epochs, is below `threshold` times the
    largest of its image: Xu et al., "Progressive Purification for Instance-Dependent Partial Label Learning" (ICML
    2023), as in the authors' code (palm-ml/POP, main.py). The idea: a classifier is reliable first where the gap to the
    best candidate is widest, also when wrong candidates depend on the image; without them it becomes so elsewhere.

    Args:
        mean_weights: float [N, K].
        kept: bool [N, K], the candidates so far.
        threshold: θ, in [0, 1).
    """
    weights = mean_weights.masked_fill(~kept, 0.0)
    return kept & (weights >= threshold * weights.amax(dim=1, keepdim=True))


def grown_threshold(threshold: float, growth: float, *, changed: int, images: int, labels: int) -> float:
    """POP's next θ: (1 + `growth`) times as high where hardly any candidate left its set, up to `MOST_THRESHOLD`.

    Args:
        threshold: the current θ.
        growth: 0.001 in the authors' code.
        changed: candidates that have just left their sets, over all images.
        images: N.
        labels: C, all labels.
    """
    if threshold >= MOST_THRESHOLD or changed >= FEW_CHANGES * images * labels:
        return threshold
    return threshold * (1.0 + growth)


def followed_mean(mean: Tensor, batch: Tensor, momentum: float) -> Tensor:
    """RECORDS' mean feature after another batch, m · mean + (1 − m) · batch: float [d]; it starts at 0, m = 0.9.

    Hong et al., "Long-Tailed Partial Label Learning via Dynamic Rebalancing" (ICLR 2023), as in the authors' code
    (MediaBrain-SJTU/RECORDS-LTPLL, utils/utils_loss.py, Proden_loss_RECORDS).
    """
    return momentum * mean + (1.0 - momentum) * batch.detach()


def log_class_prior(mean_logits: Tensor) -> Tensor:
    """The logarithm of the class prior that a classifier has learned so far: float [C], detached (RECORDS).

    `mean_logits`: its logits [C] for the mean feature. The prior is their softmax: dynamic, so that it follows what the
    classifier takes for frequent, and no count of true classes is needed.
    """
    log_p = F.log_softmax(mean_logits.detach().float(), dim=0)
    return torch.logaddexp(log_p, torch.full_like(log_p, math.log(PRIOR_FLOOR)))


def rebalanced_weights(logits: Tensor, candidate_mask: Tensor, log_prior: Tensor) -> Tensor:
    """PRODEN's weights from logits without the class prior: float [N, C], detached (RECORDS).

    w_ij ∝ exp(z_ij − log π_j) on the candidate set: frequent names no longer win the sets of rare ones. The loss itself
    takes the plain logits, as in the authors' code.
    """
    return proden_weights(logits - log_prior, candidate_mask)
