"""Candidate sets as the rows of the candidates and disambiguated tables, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgvr import schemas
from fgvr.candidates import NONE, CandidateSets

OWN_COLUMNS = ("candidate_ids", "candidate_weights")

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def candidate_rows(image_ids: Ids, neighbour_ids: Ids, neighbour_scores: Floats, sets: CandidateSets) -> pa.Table:
    """Rows of the candidates schema; empty lists where an image has no neighbours or no candidates.

    Args:
        image_ids: int64 [N].
        neighbour_ids: image ids of the neighbours, nearest first, int64 [N, k]; −1 in unused places.
        neighbour_scores: their similarities, float32 [N, k].
        sets: of the N images.
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
        weights: float32 [n, K], the final weights of those rows that have candidates, in their order.
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
    """The sets in two columns of lists: of either table, or own names in `OWN_COLUMNS` of the labels table."""
    labels, weights = (rows[name].combine_chunks() for name in columns)
    sizes = np.diff(labels.offsets.to_numpy()) if len(labels) else np.zeros(0, np.int64)
    places = np.arange(max(1, int(sizes.max(initial=0)))) < sizes[:, None]
    padded_labels = np.full(places.shape, NONE, np.int32)
    padded_weights = np.zeros(places.shape, np.float32)
    padded_labels[places] = labels.flatten().to_numpy()
    padded_weights[places] = weights.flatten().to_numpy()
    return CandidateSets(padded_labels, padded_weights)


def _lists(values: npt.NDArray[Any], used: npt.NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
    """The used places of every row of a matrix as a list a row."""
    offsets = np.concatenate([[0], np.cumsum(used.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[used], kind))
