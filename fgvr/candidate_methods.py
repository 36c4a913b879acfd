"""The methods of `candidates.method`: which names become an image's candidate set."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from fgvr.adaptive_candidates import adaptive_sets, reach
from fgvr.candidates import NONE, CandidateSets, Weighting, neighbour_sets, packed, random_sets, single_sets
from fgvr.config import Candidates
from fgvr.label_agreement import NEIGHBOURS, Agreement
from fgvr.neighbours import Neighbours

RULES = 1
"""Raised when the same labels and neighbours come to be other candidate sets."""
log = logging.getLogger(__name__)


def most_neighbours(config: Candidates) -> int:
    """How many nearest images a method may look at, the image itself included."""
    return max(config.k, 1 + NEIGHBOURS) if config.method == "adaptive" else config.k


def used_neighbours(config: Candidates, agreement: Agreement) -> int:
    """k: how many of them it looks at, as the config says or the estimates decide."""
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
        config: the method.
        found: at least `used_neighbours` nearest images of each, itself first if it has a label; rows of `names`.
        names: weighted names that the MLLM gave each image.
        embedded: bool [N], has a vector; without one an image gets an empty set, since nothing can be learned from it.
        space: names in the label space.
        agreement: estimates for these images; only `adaptive` needs them.
    """
    k = used_neighbours(config, agreement)
    near, scores = found.ids[:, :k], found.scores[:, :k]
    method = config.method
    if method == "adaptive" and agreement.expected_to_help is None:
        log.warning("candidates: too few labels agree to estimate anything: sets are made as by method neighbours")
        method = "neighbours"
    match method:
        case "neighbours":
            sets = neighbour_sets(names, near, scores, config.weights)
        case "adaptive":
            # Where neighbours are not expected to help, every image keeps its own names.
            sets = adaptive_sets(names, near, agreement) if k > 1 else names
        case "mllm":
            sets = _weighted(names, config.weights)
        case "random":
            sets = random_sets(names.first, space, config.k, config.seed)
        case "single":
            sets = single_sets(names.first)
    return sets.only(embedded)


def _weighted(names: CandidateSets, weighting: Weighting) -> CandidateSets:
    """The image's own names, alike or by their share of its answers."""
    if weighting != "uniform":
        return names
    return packed(names.label_ids, (names.label_ids != NONE).astype(np.float32))
