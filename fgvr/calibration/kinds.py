"""The kind above a predicted name, and how sure a model is of it, from the best names that it gave."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from fgvr.arrays import NONE, Doubles, Ids
from fgvr.hierarchy.tree import ROOT, Tree


def kinds_above(
    tree: Tree, labels: pa.ChunkedArray, tops: pa.ChunkedArray, scores: pa.ChunkedArray
) -> tuple[Ids, Doubles]:
    """The kind directly above each predicted name, and the summed scores of those of its best names that lie below.

    A model lists its best names only, so the sum is a lower bound of the kind's probability. As a score to be
    calibrated it needs no more than to be higher where the kind is more often right.

    Args:
        tree: of the names.
        labels: predicted name per photo, strings [n].
        tops: its best names, lists of strings [n].
        scores: theirs, lists of floats [n].

    Returns:
        Nodes of the kinds, int64 [n], `NONE` without one; and their scores, float64 [n], NaN there.
    """
    own = _nodes(tree, labels)
    above = np.where(own > ROOT, tree.parent[np.maximum(own, 0)], NONE)
    above[above == ROOT] = NONE
    lists = tops.combine_chunks() if isinstance(tops, pa.ChunkedArray) else tops
    masses = scores.combine_chunks() if isinstance(scores, pa.ChunkedArray) else scores
    counts = np.nan_to_num(lists.value_lengths().to_numpy(zero_copy_only=False)).astype(np.int64)
    row = np.repeat(np.arange(len(counts)), counts)
    nodes = _nodes(tree, lists.flatten())
    mass = masses.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    of_row = above[row]
    below = (of_row != NONE) & (nodes >= of_row) & (nodes < tree.end[np.maximum(of_row, 0)])
    sums = np.bincount(row[below], weights=mass[below], minlength=len(own))
    return above, np.where(above == NONE, np.nan, sums)


def is_below(tree: Tree, names: list[str | None], kinds: Ids) -> np.ndarray:
    """Whether each name is the kind at the same place, or lies below it, bool [n]; never for an unknown name."""
    nodes = tree.nodes(names)
    found: np.ndarray = (kinds != NONE) & (nodes >= kinds) & (nodes < tree.end[np.maximum(kinds, 0)])
    return found


def _nodes(tree: Tree, names: pa.ChunkedArray | pa.Array) -> Ids:
    """Node of each name, int64 [n]; each distinct name is looked up once."""
    whole = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
    coded = whole.dictionary_encode()
    known = np.append(tree.nodes(coded.dictionary.to_pylist()), NONE)
    places = coded.indices.fill_null(len(known) - 1).to_numpy(zero_copy_only=False)
    found: Ids = known[places]
    return found
