"""Label propagation: few labels spread to many images along a graph of nearest neighbours.

    w_ij = exp(β(z_i·z_j − 1)) on each image's nearest others, symmetrised by max,   W = D^(−1/2) w D^(−1/2)
    Y_ij = 1[t_i = j] / n_j,   Z ← α W Z + (1 − α) Y   (R rounds)

This is local and global consistency (Zhou et al., "Learning with Local and Global Consistency", NIPS 2003) with the
labels of each name weighted by 1/n_j, so that frequent names do not flood the graph. A photo's score adds its share
of the propagated mass to the prototypes' probabilities:

    score_j = softmax_j(κ z·c) + Z_j / Σ_j' Z_j'

It pays where there are few answers per name (at three per class +0 to +1.6 points over prototypes on four real sets)
and no longer at ten (−1.1 to +0.5), so it is used up to `FEW_ANSWERS` per name. The constants are never tuned per set.

Images × names does not fit into memory for millions of photos and thousands of names: from `DENSE` cells on, each
image keeps only its `KEEP` heaviest names per round, and the sparse product is computed in blocks of images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from fgvr.arrays import NONE, Doubles, Floats, Ids, Labels
from fgvr.heads.prototypes import SCALE, Prototypes, check

BETA = 10.0
ALPHA = 0.9
ROUNDS = 20
NEIGHBOURS = 10
"""Nearest others per image in the graph."""
KEEP = 20
"""Names kept per image where images × names is large."""
DENSE = 2**27
"""Images × names up to which all names are kept: 512 MB of float32."""
FEW_ANSWERS = 5.0
"""Labelled images per name up to which propagation is used."""
CELLS_AT_ONCE = 2**24
"""Cells of a block's product that are held in memory."""
WIDE = 1024
"""Names that reach an image beyond which its heaviest are picked by themselves."""


@dataclass(frozen=True)
class Spread:
    """Propagated mass: row i holds image i's names in no order.

    Attributes:
        label_ids: int32 [N, K]; `NONE` in unused positions.
        mass: float32 [N, K], ≥ 0; 0 in unused positions.
    """

    label_ids: Labels
    mass: Floats


def graph(indices: Ids, similarities: Floats) -> sp.csr_array:
    """The normalised graph W, float32 [N, N], symmetric, without loops.

    Args:
        indices: nearest images of every image, int64 [N, k]; −1 if missing. The image itself may be among them.
        similarities: their cosines, float32 [N, k].

    Raises:
        ValueError: the shapes differ, or an index is no image.
    """
    count = len(indices)
    if indices.shape != similarities.shape:
        raise ValueError(f"{indices.shape} neighbours with {similarities.shape} similarities")
    rows = np.repeat(np.arange(count), indices.shape[1])
    columns, values = indices.ravel(), similarities.ravel()
    if len(columns) and (columns.max() >= count or columns.min() < NONE):
        raise ValueError(f"neighbours from {columns.min()} to {columns.max()} among {count} images")
    real = (columns != NONE) & (columns != rows)
    weights = np.exp(BETA * (values[real].astype(np.float64) - 1.0))
    directed = sp.csr_array((weights, (rows[real], columns[real])), shape=(count, count))
    both = directed.maximum(directed.T).tocsr()
    degrees = np.asarray(both.sum(axis=1)).ravel()
    root = np.where(degrees > 0, 1.0 / np.sqrt(np.where(degrees > 0, degrees, 1.0)), 0.0)
    scaled = sp.csr_array((both.data * np.repeat(root, np.diff(both.indptr)), both.indices, both.indptr), both.shape)
    scaled.data *= root[scaled.indices]
    return scaled.astype(np.float32)


def propagate(neighbours: sp.csr_array, labels: Ids, names: int, *, keep: int | None = None) -> Spread:
    """The mass Z of every image after `ROUNDS` rounds.

    Args:
        neighbours: W of `graph`, [N, N].
        labels: the own labels, int64 [N]; `NONE` if an image has none.
        names: V, the size of the label space.
        keep: names kept per image and round; None: all where N × V is at most `DENSE`, else `KEEP`.

    Returns:
        All names given by some image (K of them) or the `keep` heaviest. Images that no label reaches have none.
    """
    check(np.zeros((len(labels), 0), np.float32), labels, names)
    if neighbours.shape != (len(labels), len(labels)):
        raise ValueError(f"a graph of {neighbours.shape[0]} images for {len(labels)} labels")
    given, columns = np.unique(labels[labels != NONE], return_inverse=True)
    rows = np.flatnonzero(labels != NONE)
    counts = np.bincount(columns, minlength=len(given))
    values = (1.0 / counts[columns]).astype(np.float32)
    start = sp.csr_array((values, (rows, columns)), shape=(len(labels), len(given)), dtype=np.float32)
    if keep is None and len(labels) * len(given) <= DENSE:
        return _dense(neighbours, start, given)
    return _sparse(neighbours, start, given, KEEP if keep is None else keep)


def _dense(neighbours: sp.csr_array, start: sp.csr_array, given: Ids) -> Spread:
    anchored = (1.0 - np.float32(ALPHA)) * start.toarray()
    mass = np.zeros_like(anchored)
    for _ in range(ROUNDS):
        mass = np.float32(ALPHA) * (neighbours @ mass) + anchored
    ids = np.where(mass > 0, given[None, :], NONE).astype(np.int32)
    return Spread(ids, mass)


def _sparse(neighbours: sp.csr_array, start: sp.csr_array, given: Ids, keep: int) -> Spread:
    anchored = start * np.float32(1.0 - ALPHA)
    mass = sp.csr_array(start.shape, dtype=np.float32)
    ids = np.full((start.shape[0], keep), NONE, np.int32)
    values = np.zeros(ids.shape, np.float32)
    for _ in range(ROUNDS):
        for block in _blocks(neighbours, keep):
            spread = neighbours[block] @ mass
            ids[block], values[block] = _heaviest((np.float32(ALPHA) * spread + anchored[block]).tocsr(), keep)
        mass = _as_matrix(ids, values, len(given))
    named = np.where(ids == NONE, NONE, given[np.maximum(ids, 0)] if len(given) else NONE)
    return Spread(named.astype(np.int32), values)


def _blocks(neighbours: sp.csr_array, keep: int) -> Iterator[slice]:
    """Slices of images whose product has at most `CELLS_AT_ONCE` cells, by an upper limit; at least one image each."""
    reach = neighbours.indptr.astype(np.int64) * keep + np.arange(len(neighbours.indptr)) * keep
    at, count = 0, neighbours.shape[0]
    while at < count:
        end = min(count, max(at + 1, int(np.searchsorted(reach, reach[at] + CELLS_AT_ONCE, side="right")) - 1))
        yield slice(at, end)
        at = end


def _heaviest(rows: sp.csr_array, keep: int) -> tuple[Labels, Floats]:
    """Columns and values of the `keep` largest cells of each row, in no order: int32 and float32 [n, keep]."""
    held = np.diff(rows.indptr)
    columns, values = np.full((len(held), keep), NONE, np.int32), np.zeros((len(held), keep), np.float32)
    narrow = np.flatnonzero(held <= WIDE)
    width = max(int(held[narrow].max(initial=0)), keep)
    places = np.arange(width)
    used = places < held[narrow, None]
    cells = np.where(used, rows.indptr[narrow, None] + places, 0)
    some = rows.nnz > 0
    all_columns = np.where(used, rows.indices[cells] if some else NONE, NONE).astype(np.int32)
    all_values = np.where(used, rows.data[cells] if some else 0.0, 0.0).astype(np.float32)
    best = np.argpartition(-all_values, keep - 1, axis=1)[:, :keep]
    columns[narrow] = np.take_along_axis(all_columns, best, axis=1)
    values[narrow] = np.take_along_axis(all_values, best, axis=1)
    for row in np.flatnonzero(held > WIDE):  # images that are near to thousands: one by one, so that none pads others
        here = slice(rows.indptr[row], rows.indptr[row + 1])
        few = np.argpartition(-rows.data[here], keep - 1)[:keep]
        columns[row], values[row] = rows.indices[here][few], rows.data[here][few]
    return columns, values


def _as_matrix(ids: Labels, values: Floats, names: int) -> sp.csr_array:
    used = ids != NONE
    starts = np.concatenate([[0], np.cumsum(used.sum(axis=1), dtype=np.int64)])
    return sp.csr_array((values[used], ids[used], starts), shape=(len(ids), names))


def propagated_scores(vectors: Floats, made: Prototypes, spread: Spread, scale: float = SCALE) -> Floats:
    """Scores of images over the prototypes' names, float32 [n, C]: (softmax(κ z·c) + Z / ΣZ) / 2, so rows sum to 1.

    Args:
        vectors: unit vectors, [n, d].
        made: the prototypes.
        spread: the propagated mass of the same n images. Images that no label reaches count the prototypes alone, as
            do names without a prototype.
        scale: κ.
    """
    logits = scale * (vectors.astype(np.float32) @ made.directions.T)
    logits -= logits.max(axis=1, keepdims=True)
    scores = np.exp(logits)
    scores /= scores.sum(axis=1, keepdims=True)
    column = np.full(max(int(made.label_ids.max(initial=0)), int(spread.label_ids.max(initial=0))) + 1, NONE, np.int64)
    column[made.label_ids] = np.arange(len(made.label_ids))
    places = np.where(spread.label_ids == NONE, NONE, column[np.maximum(spread.label_ids, 0)])
    shared = np.where(places == NONE, 0.0, spread.mass).astype(np.float64)
    total = shared.sum(axis=1)
    reached = np.flatnonzero(total > 0)
    rows, at = np.nonzero(shared[reached])
    share: Doubles = np.zeros((len(reached), len(made.label_ids)))
    np.add.at(share, (rows, places[reached[rows], at]), shared[reached[rows], at] / total[reached[rows]])
    scores[reached] = (scores[reached] + share) / 2
    return np.asarray(scores, np.float32)
