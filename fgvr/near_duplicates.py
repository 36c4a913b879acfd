"""Groups of near-duplicates: the same photo scaled, compressed or cut anew, of which a model is asked about one.

The first image that no earlier one has taken takes all images that are as similar to it as asked, in the order of their
rows. So each image is as similar as asked to the one whose answer it gets, and a chain of images that change little by
little is cut: a group does not drift from one thing to another. (This is the sequential leader clustering of Hartigan,
Clustering Algorithms, 1975, chapter 3, on the graph of nearest neighbours.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fgvr.neighbours import Floats, Ids
from fgvr.neighbours.found import NOBODY

RULES = 1
"""Raised when the same vectors come to be other groups."""
NEIGHBOURS = 16
"""Nearest images that are looked at. Of a larger group some images may find no way to its first one; they are asked
about themselves, which costs money and no correctness."""


@dataclass(frozen=True)
class Groups:
    """Who shares whose answer.

    Attributes:
        first: the row of each image's group's first one, its own where it is that; int64 [N].
        similarity: to that one; float32 [N], 1 for itself.
    """

    first: Ids
    similarity: Floats


def group(ids: Ids, scores: Floats, similarity: float) -> Groups:
    """Group images by their nearest neighbours.

    Args:
        ids: rows of the nearest images of each, in any order, itself among them or not; int64 [N, k], `NOBODY` where
            there is none.
        scores: cosine similarities, float32 [N, k].
        similarity: cosine from which two images are one photo.
    """
    near = (ids != NOBODY) & (scores >= similarity) & (ids != np.arange(len(ids))[:, None])
    one, place = np.nonzero(near)
    other, score = ids[one, place], scores[one, place]
    # Who is among the nearest of whom is not mutual; to be one photo is.
    left, right = np.concatenate([one, other]), np.concatenate([other, one])
    later = left < right
    left, right, values = left[later], right[later], np.concatenate([score, score])[later]
    order = np.argsort(left, kind="stable")
    left, right, values = left[order], right[order], values[order]
    first, found = np.arange(len(ids), dtype=np.int64), np.ones(len(ids), np.float32)
    rows, starts, counts = np.unique(left, return_index=True, return_counts=True)
    for row, start, end in zip(rows.tolist(), starts.tolist(), (starts + counts).tolist(), strict=True):
        if first[row] != row:
            continue
        mates = right[start:end]
        free = first[mates] == mates
        first[mates[free]], found[mates[free]] = row, values[start:end][free]
    return Groups(first, found)
