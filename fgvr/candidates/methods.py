"""Candidate sets whose size and weights follow from the estimated noise of labels and neighbourhoods.

`fgvr.candidates.agreement` estimates the reliability a_r of an image's own label and of its neighbours' at every
rank, and from it the weight of a vote: λ_r = log(a_r / ((1 − a_r) c)). The posterior of a name, which becomes its
weight, is then a softmax of the sum of its votes:

    w_ij ∝ exp Σ_{r: vote r says j} λ_r · share of r's vote for j.

- **How many neighbours** (k): the nearest ranks with λ above 0, up to the first that is not. If neighbourhoods are no
  purer than labels are accurate, k is 1: the image's own names, as the MLLM weighted them.
- **How many names**: the fewest that hold `MASS` of the posterior, so that a method that starts from the set alone
  (PRODEN's updates) does not see every name of ten neighbours.
- **The own label stays**, with a weight of at least `FLOOR`: reliabilities are accurate to about 0.05 at best, so no
  image's own label may be ruled out any further than that.
"""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from fgvr.arrays import NONE, Floats, Ids, Labels
from fgvr.candidates.agreement import NEIGHBOURS, Agreement, estimate
from fgvr.candidates.sets import (
    CandidateSets,
    Weighting,
    neighbour_sets,
    packed,
    random_sets,
    single_sets,
    summed_votes,
)
from fgvr.config import Candidates
from fgvr.neighbours import Neighbours

log = logging.getLogger(__name__)


MASS = 0.95
FLOOR = 0.05


def reach(agreement: Agreement) -> int | None:
    """How many images vote on a set, including the image itself; None if nothing could be estimated."""
    if agreement.purer is None:
        return None
    speaking = agreement.evidence > 0.0
    return max(1, int(np.cumprod(speaking).sum())) if agreement.purer else 1


def adaptive_sets(names: CandidateSets, near: Ids, agreement: Agreement) -> CandidateSets:
    """The probable names of each image, most probable first.

    Args:
        names: the weighted names that the MLLM gave the M images.
        near: row numbers int64 [N, k] of the voting images, nearest first, starting with the image itself; `NONE` if
            one is missing. An image without names of its own starts with its first neighbour.
        agreement: the estimates; k is at most the number of its reliabilities.
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
    """The posterior restricted to the fewest names that hold `MASS`, with at least `FLOOR` for the own label."""
    order = np.argsort(-posterior, axis=1, kind="stable")
    ranked = np.take_along_axis(posterior, order, axis=1)
    heavier = np.cumsum(ranked, axis=1) - ranked
    needed = np.zeros(posterior.shape, bool)
    np.put_along_axis(needed, order, heavier < MASS, axis=1)
    kept = np.where(needed & ~own, posterior, 0.0)
    rest = kept.sum(axis=1, keepdims=True)
    mine = np.where(own, posterior, 0.0)
    # FLOOR is a share of the whole, whatever the remaining names sum to.
    least = np.where(own, rest * FLOOR / (1.0 - FLOOR), 0.0)
    return np.asarray(kept + np.maximum(mine, least), dtype=np.float32)


# The methods of `candidates.method`: which names become an image's candidate set.

RULES = 1
"""Increase it when the same labels and neighbours would give other candidate sets."""


def most_neighbours(config: Candidates) -> int:
    """How many nearest images a method may use, including the image itself."""
    return max(config.k, 1 + NEIGHBOURS) if config.method == "adaptive" else config.k


def used_neighbours(config: Candidates, agreement: Agreement) -> int:
    """k: how many of them it uses, from the config or from the estimates."""
    chosen = reach(agreement) if config.method == "adaptive" else None
    return config.k if chosen is None else chosen


def candidate_sets(
    config: Candidates,
    found: Neighbours,
    names: CandidateSets,
    *,
    embedded: npt.NDArray[np.bool_],
    space: int,
    agreement: Agreement,
) -> CandidateSets:
    """The candidate sets of all discovery images.

    Args:
        config: the method, any but `posterior`.
        found: at least `used_neighbours` nearest images of each, with itself first if it has a label; rows of `names`.
        names: the weighted names that the MLLM gave each image.
        embedded: bool [N], has a vector; images without one get an empty set, since nothing can be learned from them.
        space: number of names in the label space.
        agreement: estimates for these images; only `adaptive` needs them.
    """
    k = used_neighbours(config, agreement)
    near, scores = found.ids[:, :k], found.scores[:, :k]
    method = config.method
    if method == "adaptive" and agreement.purer is None:
        log.warning("candidates: too few labels agree to estimate anything: sets are made as by method neighbours")
        method = "neighbours"
    match method:
        case "neighbours":
            sets = neighbour_sets(names, near, scores, config.weights)
        case "adaptive":
            # If neighbourhoods are no purer than labels are right, every image keeps its own names.
            sets = adaptive_sets(names, near, agreement) if k > 1 else names
        case "mllm":
            sets = _weighted(names, config.weights)
        case "random":
            sets = random_sets(names.first, space, config.k, config.seed)
        case "single":
            sets = single_sets(names.first)
        case "posterior":
            raise ValueError("the posterior needs a text tower: its sets are made by fgvr.beliefs.posterior")
    return sets.only(embedded)


def held_out_sets(
    config: Candidates, found: Neighbours, names: CandidateSets, known: npt.NDArray[np.bool_], *, space: int
) -> CandidateSets:
    """The candidate sets of some images if only their own labels were known: what the guard compares.

    Of each image's neighbours those that are known stay, as many as the method uses. So of a large k there may be
    fewer, since no others were searched.

    Args:
        config: the method, any but `posterior`.
        found: the nearest images of each, with itself first if it has a label; rows of `names`.
        names: the weighted names that the MLLM gave each image.
        known: bool [N], the images whose labels are known; the sets of others mean nothing.
        space: number of names in the label space.
    """
    there = (found.ids != NONE) & known[found.ids]
    order = np.argsort(~there, axis=1, kind="stable")
    ids = np.take_along_axis(np.where(there, found.ids, NONE), order, axis=1)
    scores = np.take_along_axis(np.where(there, found.scores, -np.inf), order, axis=1).astype(np.float32)
    near, mine = Neighbours(ids, scores, found.method, found.recall), names.only(known)
    agreement = estimate_of(near, mine.first, config.k)
    return candidate_sets(config, near, mine, embedded=known, space=space, agreement=agreement)


def estimate_of(found: Neighbours, own: Labels, k: int) -> Agreement:
    """Estimates from the labels of the nearest images, for sets of size k, over images with a label and a vector."""
    itself = found.ids[:, 0] == np.arange(len(own))
    return estimate(labels_of(found.ids[itself, : 1 + NEIGHBOURS], own), k)


def labels_of(neighbours: Ids, own: Labels) -> Labels:
    """The labels of neighbours that are given by row number; `NONE` where one is missing."""
    return np.where(neighbours == NONE, NONE, own[neighbours]).astype(np.int32)


def _weighted(names: CandidateSets, weighting: Weighting) -> CandidateSets:
    """The image's own names, with equal weights or weighted by their shares of its answers."""
    if weighting != "uniform":
        return names
    return packed(names.label_ids, (names.label_ids != NONE).astype(np.float32))
