"""Candidate sets: the labels of an image's nearest neighbours, one of which is likely to be true.

NeaR, section 3.2: S_i holds the MLLM labels of the k nearest images of i in CLIP's space, i itself included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Weighting = Literal["uniform", "multiplicity", "similarity"]

NONE = -1  # no neighbour, no label, or an unused place
BLOCK = 65_536  # images compared at once: k² numbers each


@dataclass(frozen=True)
class CandidateSets:
    """Candidate labels of N images, in places 0..K−1 of a row.

    Attributes:
        label_ids: distinct labels, int32 [N, K]; `NONE` in unused places, which come last.
        weights: initial weights, float32 [N, K]: sum 1 a row, 0 in unused places and in rows without candidates.
    """

    label_ids: Labels
    weights: Floats

    def __len__(self) -> int:
        """Number of images."""
        return len(self.label_ids)

    @property
    def sizes(self) -> Ids:
        """Candidates of each image, int64 [N]."""
        return np.asarray((self.label_ids != NONE).sum(axis=1), dtype=np.int64)


def neighbour_sets(neighbour_labels: Labels, scores: Floats, weighting: Weighting = "uniform") -> CandidateSets:
    """The distinct labels of each image's neighbours, in the order in which they first appear.

    Args:
        neighbour_labels: int32 [N, k], nearest first; `NONE` where a neighbour is missing or has no label.
        scores: cosine similarities of the neighbours, float32 [N, k].
        weighting: of the labels in a set: the same for all, by number of neighbours, or by the sum of their
            similarities (negative ones count as 0).
    """
    labels = np.asarray(neighbour_labels, dtype=np.int32)
    blocks = [slice(at, at + BLOCK) for at in range(0, len(labels), BLOCK)]
    votes = [_votes(labels[rows], scores[rows], weighting) for rows in blocks]
    merged = np.concatenate([np.zeros((0, labels.shape[1]), np.float32), *votes])
    return _packed(np.where(merged < 0, NONE, labels), np.maximum(merged, 0.0))


def _votes(labels: Labels, scores: Floats, weighting: Weighting) -> Floats:
    """Votes for the label of each place, at the place where it first appears; −1 at all others: float32 [N, k]."""
    known = labels != NONE
    # says[i, a, b]: neighbours a and b of image i say the same.
    says = (labels[:, :, None] == labels[:, None, :]) & known[:, :, None] & known[:, None, :]
    first = known & ~np.tril(says, k=-1).any(axis=2)
    if weighting == "uniform":
        votes = first.astype(np.float32)
    elif weighting == "multiplicity":
        votes = says.sum(axis=2, dtype=np.float32)
    else:
        votes = np.where(says, np.clip(scores, 0.0, None)[:, None, :], 0.0).sum(axis=2, dtype=np.float32)
    return np.where(first, votes, -1.0).astype(np.float32)


def random_sets(own: Labels, labels_in_space: int, k: int, seed: int) -> CandidateSets:
    """The baseline Random-CS: an image's own label and k − 1 other distinct ones of the label space, drawn at random.

    An image without a label of its own (`NONE`) gets k random ones. Sets are smaller than k where the space is.
    """
    random = np.random.default_rng(seed)
    k = min(k, labels_in_space)
    sets = np.full((len(own), k), NONE, np.int32)
    for row, label in enumerate(own):
        # k distinct labels of which, if the own one is among them, that one is put in front, else it replaces one.
        drawn = random.choice(labels_in_space, size=k, replace=False)
        if label != NONE:
            drawn = np.concatenate([[label], drawn[drawn != label]])[:k]
        sets[row] = drawn
    return _packed(sets, np.where(sets != NONE, 1.0, 0.0).astype(np.float32))


def single_sets(own: Labels) -> CandidateSets:
    """Only the image's own label; no candidate for an image without one."""
    sets = np.asarray(own, dtype=np.int32)[:, None]
    return _packed(sets, (sets != NONE).astype(np.float32))


def _packed(labels: Labels, votes: Floats) -> CandidateSets:
    """Labels moved to the first places of their rows, votes scaled to sum 1."""
    order = np.argsort(labels == NONE, axis=1, kind="stable")
    labels, votes = np.take_along_axis(labels, order, axis=1), np.take_along_axis(votes, order, axis=1)
    used = max(1, int((labels != NONE).sum(axis=1).max(initial=0)))
    labels, votes = labels[:, :used], votes[:, :used]
    total = votes.sum(axis=1, keepdims=True)
    # All similarities ≤ 0: nothing speaks for one candidate more than for another.
    even = (labels != NONE) / np.maximum((labels != NONE).sum(axis=1, keepdims=True), 1)
    weights = np.where(total > 0, votes / np.where(total > 0, total, 1.0), even)
    return CandidateSets(np.ascontiguousarray(labels, dtype=np.int32), weights.astype(np.float32))


def coverage(sets: CandidateSets, truth: Labels) -> float:
    """Share of images whose set holds the label id of the truth, among those where it has one (`NONE`: it has not).

    NaN when no truth is known.
    """
    known = truth != NONE
    return float((sets.label_ids[known] == truth[known, None]).any(axis=1).mean()) if known.any() else float("nan")
