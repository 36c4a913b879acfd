"""How near an image is to the other images of each of a few names, given uncertain labels.

Every posterior here rests on the sums S_j = Σ_l R_lj z_l of the vectors z of all images, weighted by the probability
R_lj that image l shows name j. An image must not vouch for itself, so its own part is taken out of every sum:
S_j^(−i) = S_j − R_ij z_i. Probabilities are kept for a few names per image (its *support*), since a dense matrix of
20,000 images and 20,000 names would take gigabytes.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from fgvr.arrays import NONE, Doubles, Floats, Ids, Labels

NEAREST = 20  # names by nearest prototypes that an image may have besides those that it was given
BLOCK = 2**24  # numbers gathered at once


def nearest_names(vectors: Floats, own: Labels, names: int, most: int = NEAREST) -> Labels:
    """The names whose prototype, the mean direction of the images with that label, is nearest to each image.

    Args:
        vectors: of length 1, float32 [N, d].
        own: label of each image, int32 [N]; `NONE`: none. Names that no image has are not found.
        names: size of the label space, V.
        most: names per image.

    Returns:
        int32 [N, min(most, V)], in no order; `NONE` where fewer names have an image.
    """
    given = np.flatnonzero(own != NONE)
    sums = name_sums(vectors[given], own[given, None], np.ones((len(given), 1)), names)
    lengths = np.linalg.norm(sums, axis=1)
    known = np.flatnonzero(lengths > 0)
    prototypes = (sums[known] / lengths[known, None]).astype(np.float32)
    return nearest_rows(vectors, prototypes, most, known)


def nearest_rows(vectors: Floats, rows: Floats, most: int, ids: Ids | None = None) -> Labels:
    """Numbers of the `most` rows [m, d] with the largest products with each vector [N, d], int32 [N, ≤ most].

    `ids` replaces the numbers 0 … m − 1.
    """
    ids = np.arange(len(rows)) if ids is None else ids
    most = min(most, len(rows))
    if not most:
        return np.full((len(vectors), 1), NONE, np.int32)
    found = np.empty((len(vectors), most), np.int32)
    step = max(1, BLOCK // len(rows))
    for at in range(0, len(vectors), step):
        products = vectors[at : at + step] @ rows.T
        found[at : at + step] = ids[np.argpartition(-products, most - 1, axis=1)[:, :most]]
    return found


def joined(*parts: Labels) -> Labels:
    """The distinct names of several matrices [N, K_p], int32 [N, M]; `NONE` in unused positions.

    The first column stays the first: names of later columns that repeat an earlier one are dropped.
    """
    labels = np.concatenate(parts, axis=1).astype(np.int32)
    order = np.argsort(labels, axis=1, kind="stable")
    ranked = np.take_along_axis(labels, order, axis=1)
    again = np.zeros(labels.shape, bool)
    np.put_along_axis(again, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], axis=1)
    labels = np.where(again, NONE, labels)
    order = np.argsort(labels[:, 1:] == NONE, axis=1, kind="stable")
    rest = np.take_along_axis(labels[:, 1:], order, axis=1)
    used = int((rest != NONE).sum(axis=1).max(initial=0))
    return np.ascontiguousarray(np.concatenate([labels[:, :1], rest[:, :used]], axis=1))


def nearness(vectors: Floats, labels: Labels, shares: Doubles, names: int) -> Doubles:
    """z_i · S_j^(−i) / (‖S_j^(−i)‖ + 1) for every name j of every image i's support, float64 [N, M].

    It lies between −1 and 1, near 0 for a name with few other images: a single image of a name counts half.

    Args:
        vectors: of length 1, float32 [N, d].
        labels: supports, int32 [N, M]; `NONE` in unused positions, whose result is 0.
        shares: R, float64 [N, M]; 0 in unused positions.
        names: size of the label space, V.
    """
    sums = name_sums(vectors, labels, shares, names)
    squares = (sums * sums).sum(axis=1)
    found = np.empty(labels.shape)
    step = max(1, BLOCK // (labels.shape[1] * vectors.shape[1]))
    for at in range(0, len(vectors), step):
        rows = slice(at, at + step)
        products = np.einsum("id,imd->im", vectors[rows], sums[labels[rows]]).astype(np.float64)
        mine = shares[rows]
        lengths = np.sqrt(np.maximum(squares[labels[rows]] - 2.0 * mine * products + mine**2, 0.0))
        found[rows] = (products - mine) / (lengths + 1.0)
    return np.where(labels == NONE, 0.0, found)


def name_sums(vectors: Floats, labels: Labels, shares: Doubles, names: int) -> Floats:
    """S, float32 [V, d]."""
    rows, places = np.nonzero((labels != NONE) & (shares > 0))
    weights = (shares[rows, places].astype(np.float32), (labels[rows, places], rows))
    return np.asarray(sparse.csr_array(weights, shape=(names, len(vectors))) @ vectors, dtype=np.float32)
