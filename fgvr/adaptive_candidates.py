"""Candidate sets whose size and weights follow from how noisy labels and neighbourhoods are, without any true label.

`fgvr.label_agreement` estimates the reliability a_r of an image's own label and of its neighbours' at every rank, and
with it what a vote is worth: λ_r = log(a_r / ((1 − a_r) c)). The posterior of a name, which is the weight it gets, is
then a softmax of the sum of its votes:

    w_ij ∝ exp Σ_{r: vote r says j} λ_r · share of r's vote for j.

- **How many neighbours** (k): those ranks whose λ is above 0, the nearest ones up to the first that is not. Where
  neighbourhoods are not purer than labels are right, there k is 1: the image's own names, as the MLLM weighted them.
- **How many names**: the fewest that hold `MASS` of the posterior, so that a method that starts anew from the set alone
  (PRODEN's updates) does not meet every name of ten neighbours.
- **The own label stays**, with at least `FLOOR`: the reliabilities are good to about 0.05 at best, so no image's own
  label may be written off any further than that.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fgvr.candidates import NONE, CandidateSets, Floats, Ids, packed, summed_votes
from fgvr.label_agreement import Agreement

MASS = 0.95
FLOOR = 0.05


def reach(agreement: Agreement) -> int | None:
    """How many images vote on a set, the image itself included; None where nothing could be estimated."""
    if agreement.expected_to_help is None:
        return None
    speaking = agreement.evidence > 0.0
    return max(1, int(np.cumprod(speaking).sum())) if agreement.expected_to_help else 1


def adaptive_sets(names: CandidateSets, near: Ids, agreement: Agreement) -> CandidateSets:
    """The likely names of each image, the likeliest first.

    Args:
        names: weighted names that the MLLM gave the M images.
        near: row numbers int64 [N, k] of the images that vote, nearest first, the image itself in front; `NONE` where
            one is missing. An image without names of its own has its first neighbour in front.
        agreement: what was estimated; k is at most the number of its reliabilities.
    """
    itself = near[:, 0] == np.arange(len(near))
    rank = np.arange(near.shape[1]) + ~itself[:, None]
    factors = np.append(agreement.evidence, 0.0)[rank].astype(np.float32)
    votes = summed_votes(names, near, factors)
    used = votes.label_ids != NONE
    posterior = np.exp(votes.weights - votes.weights.max(axis=1, keepdims=True)) * used
    posterior /= np.maximum(posterior.sum(axis=1, keepdims=True), 1e-30)
    own = (votes.label_ids == names.first[:, None]) & used & itself[:, None]
    kept = _credible(posterior, own)
    order = np.argsort(-kept, axis=1, kind="stable")
    labels = np.where(kept > 0.0, votes.label_ids, NONE)
    return packed(np.take_along_axis(labels, order, axis=1), np.take_along_axis(kept, order, axis=1))


def _credible(posterior: Floats, own: npt.NDArray[np.bool_]) -> Floats:
    """The posterior of the fewest names that hold `MASS`, with at least `FLOOR` for the own label; 0 for the others."""
    order = np.argsort(-posterior, axis=1, kind="stable")
    ranked = np.take_along_axis(posterior, order, axis=1)
    heavier = np.cumsum(ranked, axis=1) - ranked
    needed = np.zeros(posterior.shape, bool)
    np.put_along_axis(needed, order, heavier < MASS, axis=1)
    kept = np.where(needed & ~own, posterior, 0.0)
    rest = kept.sum(axis=1, keepdims=True)
    mine = np.where(own, posterior, 0.0)
    # FLOOR of the whole, whatever the rest sums to after names were dropped.
    least = np.where(own, rest * FLOOR / (1.0 - FLOOR), 0.0)
    return np.asarray(kept + np.maximum(mine, least), dtype=np.float32)
