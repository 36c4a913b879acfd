"""How far two encoders agree about which photos lie next to each other."""

from __future__ import annotations

import numpy as np

from fgvr.arrays import Floats, Ids

ROWS_AT_ONCE = 2**11


def neighbour_agreement(first: Floats, second: Floats, k: int = 10) -> float:
    """Mean share of an image's k nearest other images by one encoder that are also among those by the other: 0 … 1.

    Of vectors drawn at random it is k / (n − 1) in the mean. Equally near images count in the order of their rows.

    Args:
        first: vectors of n images by one encoder, float [n, d], of any length.
        second: by the other, float [n, e].
        k: number of neighbours.

    Raises:
        ValueError: there are no more than k other images, so that nothing is chosen, or the numbers of images differ.
    """
    if len(first) != len(second):
        raise ValueError(f"vectors of {len(first)} and of {len(second)} images")
    if len(first) - 1 <= k:
        raise ValueError(f"{len(first)} images: among as few others, all are the {k} nearest")
    near, also = nearest(first, k), nearest(second, k)
    shared = (near[:, :, None] == also[:, None, :]).any(axis=2)
    return float(shared.mean())


def nearest(vectors: Floats, k: int) -> Ids:
    """Rows of the k nearest other images by cosine, nearest first: int64 [n, k]."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1)
    found = np.empty((len(unit), k), dtype=np.int64)
    for start in range(0, len(unit), ROWS_AT_ONCE):
        cosines = unit[start : start + ROWS_AT_ONCE] @ unit.T
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf
        found[start : start + len(rows)] = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return found
