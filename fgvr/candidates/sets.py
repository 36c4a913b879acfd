"""Candidate sets: the labels of an image's nearest neighbours, one of which is probably the true one.

NeaR, section 3.2: S_i holds the MLLM labels of the k nearest images of i in CLIP's space, including i itself. If the
MLLM gave an image several weighted names, each is a candidate for its neighbours with its share of the vote.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgvr import schemas
from fgvr.arrays import NONE, Floats, Ids, Labels

Weighting = Literal["uniform", "multiplicity", "similarity"]

BLOCK = 2**23  # pairs of names compared at once


@dataclass(frozen=True)
class CandidateSets:
    """Candidate labels of N images; row i holds image i's candidates in columns 0..K−1.

    Attributes:
        label_ids: distinct labels, int32 [N, K]; `NONE` in unused positions, which come last.
        weights: initial weights, float32 [N, K]: rows sum to 1; 0 in unused positions and in rows without candidates.
    """

    label_ids: Labels
    weights: Floats

    def __len__(self) -> int:
        """Number of images."""
        return len(self.label_ids)

    @property
    def sizes(self) -> Ids:
        """Number of candidates per image, int64 [N]."""
        return np.asarray((self.label_ids != NONE).sum(axis=1), dtype=np.int64)

    @property
    def first(self) -> Labels:
        """The first candidate of each image, int32 [N]; `NONE` if there is none."""
        return self.label_ids[:, 0]

    def only(self, rows: npt.NDArray[np.bool_]) -> CandidateSets:
        """The same sets, but empty outside `rows` (bool [N])."""
        labels = np.where(rows[:, None], self.label_ids, NONE).astype(np.int32)
        return CandidateSets(labels, np.where(rows[:, None], self.weights, 0.0).astype(np.float32))

    def certain(self, labels: Labels) -> CandidateSets:
        """The same sets, but one label alone where it is certain: `labels` int32 [N], `NONE` elsewhere."""
        known = labels != NONE
        label_ids, weights = self.label_ids.copy(), self.weights.copy()
        label_ids[known], weights[known] = NONE, 0.0
        label_ids[known, 0], weights[known, 0] = labels[known], 1.0
        return CandidateSets(label_ids, weights)

    def of(self, neighbours: Ids) -> CandidateSets:
        """The candidates of several images, concatenated per row.

        Args:
            neighbours: row numbers int64 [N, k]; `NONE` if missing.

        Returns:
            Rows of width k · K, the first neighbour's candidates first; not packed, and with weights that sum to the
            number of neighbours with candidates.
        """
        there = (neighbours != NONE)[:, :, None]
        labels = np.where(there, self.label_ids[neighbours], NONE).reshape(len(neighbours), -1)
        weights = np.where(there, self.weights[neighbours], 0.0).reshape(len(neighbours), -1)
        return CandidateSets(labels.astype(np.int32), weights.astype(np.float32))


def neighbour_sets(names: CandidateSets, near: Ids, scores: Floats, weighting: Weighting = "uniform") -> CandidateSets:
    """The distinct names of each image's neighbours, in order of first appearance.

    Args:
        names: of all M images; each row holds the weighted names that the MLLM gave an image.
        near: row numbers of the neighbours, int64 [N, k], nearest first; `NONE` if missing.
        scores: cosine similarities of the neighbours, float32 [N, k].
        weighting: how the names of a set are weighted: all the same; by the number of neighbours, each of which splits
            its vote by its names' weights; or like that, with similarities as counts (negative ones count as 0).
    """
    factors = np.clip(scores, 0.0, None) if weighting == "similarity" else np.ones_like(scores)
    sets = summed_votes(names, near, factors)
    if weighting == "uniform":
        return packed(sets.label_ids, (sets.label_ids != NONE).astype(np.float32))
    return packed(sets.label_ids, sets.weights)


def summed_votes(names: CandidateSets, near: Ids, factors: Floats) -> CandidateSets:
    """The distinct names of each image's neighbours with the sums of their votes, not normalised; columns as in `of`.

    Args:
        names: of all images.
        near: row numbers int64 [N, k]; `NONE` if missing.
        factors: factor for each neighbour's vote, ≥ 0, float32 [N, k].
    """
    width = near.shape[1] * names.label_ids.shape[1]
    step = max(1, BLOCK // max(width, 1) ** 2)
    labels, votes = np.full((len(near), width), NONE, np.int32), np.zeros((len(near), width), np.float32)
    for at in range(0, len(near), step):
        rows = slice(at, at + step)
        given = names.of(near[rows])
        weights = given.weights * np.repeat(factors[rows], names.label_ids.shape[1], axis=1)
        labels[rows], votes[rows] = _summed(given.label_ids, np.where(given.label_ids != NONE, weights, 0.0))
    return CandidateSets(labels, votes)


def _summed(labels: Labels, weights: Floats) -> tuple[Labels, Floats]:
    """Each name only at its first position, with the sum of its weights."""
    known = labels != NONE
    # says[i, a, b]: positions a and b of image i hold the same name.
    says = (labels[:, :, None] == labels[:, None, :]) & known[:, :, None] & known[:, None, :]
    first = known & ~np.tril(says, k=-1).any(axis=2)
    votes = np.where(says, weights[:, None, :], 0.0).sum(axis=2, dtype=np.float32)
    return np.where(first, labels, NONE).astype(np.int32), np.where(first, votes, 0.0).astype(np.float32)


def random_sets(own: Labels, labels_in_space: int, k: int, seed: int) -> CandidateSets:
    """The baseline Random-CS: an image's own label and k − 1 other distinct labels, drawn at random.

    An image without a label of its own (`NONE`) gets k random ones. Sets are smaller than k if the label space is.
    """
    random = np.random.default_rng(seed)
    k = min(k, labels_in_space)
    sets = np.full((len(own), k), NONE, np.int32)
    for row, label in enumerate(own):
        # Draw k distinct labels. If the own label is among them, move it to the front; else it replaces one of them.
        drawn = random.choice(labels_in_space, size=k, replace=False)
        if label != NONE:
            drawn = np.concatenate([[label], drawn[drawn != label]])[:k]
        sets[row] = drawn
    return packed(sets, np.where(sets != NONE, 1.0, 0.0).astype(np.float32))


def single_sets(own: Labels) -> CandidateSets:
    """Only the image's own label; no candidates for an image without one."""
    sets = np.asarray(own, dtype=np.int32)[:, None]
    return CandidateSets(sets, (sets != NONE).astype(np.float32))


def packed(labels: Labels, votes: Floats) -> CandidateSets:
    """Labels moved to the first columns of their rows, votes normalised to sum 1.

    Args:
        labels: int32 [N, K]; `NONE` in unused positions, anywhere in a row.
        votes: ≥ 0, float32 [N, K], 0 in unused positions; a row of zeros weights its labels equally.
    """
    order = np.argsort(labels == NONE, axis=1, kind="stable")
    labels, votes = np.take_along_axis(labels, order, axis=1), np.take_along_axis(votes, order, axis=1)
    used = max(1, int((labels != NONE).sum(axis=1).max(initial=0)))
    labels, votes = labels[:, :used], votes[:, :used]
    total = votes.sum(axis=1, keepdims=True)
    # All similarities ≤ 0: no candidate is better supported than another.
    even = (labels != NONE) / np.maximum((labels != NONE).sum(axis=1, keepdims=True), 1)
    weights = np.where(total > 0, votes / np.where(total > 0, total, 1.0), even)
    return CandidateSets(np.ascontiguousarray(labels, dtype=np.int32), weights.astype(np.float32))


def coverage(sets: CandidateSets, truth: Labels) -> float:
    """Share of images whose set contains the true label id, among images that have one (`NONE`: it has none).

    NaN if no truth is known.
    """
    known = truth != NONE
    return float((sets.label_ids[known] == truth[known, None]).any(axis=1).mean()) if known.any() else float("nan")


# Conversion between candidate sets and rows of the candidates and disambiguated tables.

OWN_COLUMNS = ("candidate_ids", "candidate_weights")


def candidate_rows(image_ids: Ids, neighbour_ids: Ids, neighbour_scores: Floats, sets: CandidateSets) -> pa.Table:
    """Rows of the candidates schema; empty lists if an image has no neighbours or no candidates.

    Args:
        image_ids: int64 [N].
        neighbour_ids: image ids of the neighbours, nearest first, int64 [N, k]; −1 in unused positions.
        neighbour_scores: their similarities, float32 [N, k].
        sets: the sets of the N images.
    """
    near, candidates = neighbour_ids != NONE, sets.label_ids != NONE
    return pa.table(
        [
            pa.array(image_ids, pa.int64()),
            _lists(neighbour_ids, near, pa.int64()),
            _lists(neighbour_scores, near, pa.float32()),
            _lists(sets.label_ids, candidates, pa.int32()),
            _lists(sets.weights, candidates, pa.float32()),
        ],
        schema=schemas.CANDIDATES,
    )


def disambiguate(candidates: pa.Table, weights: Floats) -> pa.Table:
    """Rows of the disambiguated schema; an image without candidates has empty lists and no label.

    Args:
        candidates: rows of the candidates schema.
        weights: float32 [n, K], the final weights of the rows that have candidates, in their order.
    """
    sets = read_sets(candidates)
    learned = np.flatnonzero(sets.sizes > 0)
    final = np.zeros_like(sets.weights)
    final[learned] = weights
    heaviest = np.full(len(sets), NONE, np.int32)
    heaviest[learned] = sets.label_ids[learned, final[learned].argmax(axis=1)]
    used = sets.label_ids != NONE
    return pa.table(
        [
            candidates["image_id"],
            _lists(sets.label_ids, used, pa.int32()),
            _lists(final, used, pa.float32()),
            pa.array(heaviest, pa.int32(), mask=heaviest == NONE),
        ],
        schema=schemas.DISAMBIGUATED,
    )


def read_sets(rows: pa.Table, columns: tuple[str, str] = ("label_ids", "weights")) -> CandidateSets:
    """The sets in two list columns: of either table, or own names in `OWN_COLUMNS` of the labels table."""
    labels, weights = (rows[name].combine_chunks() for name in columns)
    sizes = np.diff(labels.offsets.to_numpy()) if len(labels) else np.zeros(0, np.int64)
    places = np.arange(max(1, int(sizes.max(initial=0)))) < sizes[:, None]
    padded_labels = np.full(places.shape, NONE, np.int32)
    padded_weights = np.zeros(places.shape, np.float32)
    padded_labels[places] = labels.flatten().to_numpy()
    padded_weights[places] = weights.flatten().to_numpy()
    return CandidateSets(padded_labels, padded_weights)


def _lists(values: npt.NDArray[Any], used: npt.NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
    """The used positions of a matrix as one list per row."""
    offsets = np.concatenate([[0], np.cumsum(used.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[used], kind))
