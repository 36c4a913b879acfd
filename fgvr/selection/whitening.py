"""Whitening without labels: directions in which neighbouring images differ count less.

Two images that lie next to each other mostly show the same thing, so their difference is what does not matter: light,
pose, background. With x the images' unit vectors, μ their mean, and NN(i) the k nearest others of anchor i by cosine
of f,

    f_i = unit(x_i − μ),   Σ = 1/(2 · pairs) Σ_i Σ_{j∈NN(i)} (f_i − f_j)(f_i − f_j)ᵀ,
    Σ_s = (1 − s) Σ + s tr(Σ)/d I,   z_i = unit(Σ_s^(−1/2) f_i − mean_i Σ_s^(−1/2) f_i).

This is within-class covariance normalisation (Hatch, Kajarekar, Stolcke, Interspeech 2006) with neighbours in place of
classes. The scatter must be that of neighbours: that of all images, ordinary ZCA whitening, does harm. And neighbours
are sought among *all* images, however many there are: in a subsample they are too far away. So only the anchors are
sampled.

On CLIP vectors of Flowers, DTD, Caltech-101 and Pets the result changes little with k from 1 to 15 and s from 0.05 to
0.6. So both are constants; nothing is tuned per data set.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from zipfile import BadZipFile

import numpy as np

from fgvr.arrays import Doubles, Floats, Ids
from fgvr.neighbours.exact import FP32, Product, exact, first_not_finite, torch_threads
from fgvr.neighbours.found import NOBODY, Vectors, merge, nobody
from fgvr.neighbours.machine import this_machine

log = logging.getLogger(__name__)

RULES = 1
"""Increase it when the same vectors would give another space."""
NEIGHBOURS = 5
SHRINK = 0.3
ANCHORS = 20_000
"""Images whose neighbours are sought; with fewer images all are anchors."""
NEAR_DUPLICATE = 0.98
"""Cosine from which two images count as one photo, whose differences say nothing about what matters within a class."""
SPARE = 16
"""Near-duplicates per anchor that may be passed over in the search for neighbours."""
ALIKE = 1e-3
"""Distance from the mean below which a unit vector has no direction of its own: the rounding of fp16 vectors."""
BLOCK = 65_536  # vectors converted to float32 at a time
SMALL = 2e10  # operations that take under a second on any machine: not worth measuring the machine


@dataclass(frozen=True)
class Whitening:
    """The map x → z of the module's docstring: z = unit(matrix · unit(unit(x) − mean) − shift).

    Attributes:
        mean: μ, float64 [d].
        matrix: Σ_s^(−1/2), symmetric, float64 [d, d]; the identity if no two images are neighbours.
        shift: mean of the whitened vectors, float64 [d].
        pairs: number of pairs of neighbours from which the matrix was computed; 0: it is the identity.
    """

    mean: Doubles
    matrix: Doubles
    shift: Doubles
    pairs: int = 0

    def apply(self, vectors: Vectors) -> Floats:
        """The images in the whitened space.

        Args:
            vectors: of the same model, [N, d]; their lengths do not matter.

        Returns:
            Unit vectors, float32 [N, d]. A vector of zero length has no direction and stays zero, as does one in the
            very centre.

        Raises:
            ValueError: another number of dimensions, or a NaN or an infinity.
        """
        if vectors.ndim != 2 or vectors.shape[1] != len(self.mean):
            raise ValueError(
                f"the space was made of vectors of {len(self.mean)} numbers, and these have the shape {vectors.shape}: "
                "they are of another model"
            )
        check_finite(vectors)
        matrix, shift = self.matrix.astype(np.float32), self.shift.astype(np.float32)
        result = np.empty(vectors.shape, np.float32)
        for at in range(0, len(vectors), BLOCK):
            centred = centre(vectors[at : at + BLOCK], self.mean)
            there = np.any(centred, axis=1, keepdims=True)
            result[at : at + BLOCK] = unit((centred @ matrix - shift) * there)
        return result

    def to_bytes(self) -> bytes:
        """The content of a file `whitening.npz`."""
        content = io.BytesIO()
        np.savez(content, mean=self.mean, matrix=self.matrix, shift=self.shift, pairs=np.int64(self.pairs))
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Whitening:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError: the content is not that of a whitening.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                mean, matrix, shift, pairs = (stored[name] for name in ("mean", "matrix", "shift", "pairs"))
        except (KeyError, OSError, EOFError, ValueError, BadZipFile) as error:
            raise ValueError("this is not a whitening that fgvr has written") from error
        if mean.ndim != 1 or matrix.shape != 2 * mean.shape or shift.shape != mean.shape:
            raise ValueError(f"this is not a whitening: shapes {mean.shape}, {matrix.shape} and {shift.shape}")
        return cls(mean, matrix, shift, int(pairs))


def fit_whitening(
    vectors: Vectors, *, anchors: int = ANCHORS, seed: int = 0, threads: int = 1, device: str = "cpu"
) -> Whitening:
    """The whitening of a set of images.

    Near-duplicates (cosine of x ≥ `NEAR_DUPLICATE`) are no pairs. Without any pair (one image, or all alike) the matrix
    is the identity, and the space is that of the centred vectors.

    Memory: two blocks of 65,536 vectors and 21 neighbours per anchor, besides `vectors`. Time: three passes over them,
    of which the search takes 2·anchors·N·d operations.

    Args:
        vectors: [N, d]; may be memory-mapped. Vectors of zero length are ignored.
        anchors: images whose neighbours are sought, sampled without replacement.
        seed: of that sample.
        threads: number of cores that may be used.
        device: where the search is done, "cpu" or "cuda".

    Raises:
        ValueError: no images, or vectors that are not finite.
    """
    check_finite(vectors)
    with torch_threads(threads):
        there = _with_direction(vectors)
        if not len(there):
            raise ValueError(f"none of the {len(vectors)} vectors has a direction: there is nothing to whiten")
        mean = _mean(vectors)
        chosen = np.sort(np.random.default_rng(seed).permutation(there)[:anchors])
        found, mean_centred = _search(vectors, mean, chosen, _product(len(chosen), vectors, threads, device))
        scatter, pairs = _scatter(vectors, mean, chosen, found)
    if pairs == 0:
        log.warning(
            "whitening: none of the %s images has a neighbour that is not the same photo (cosine below %g): the space "
            "is centred and not whitened",
            *(f"{len(there):,}", NEAR_DUPLICATE),
        )
        matrix = np.eye(len(mean))
    else:
        matrix = inverse_root(scatter)
    return Whitening(mean, matrix, matrix @ mean_centred, pairs)


def inverse_root(scatter: Doubles) -> Doubles:
    """Σ_s^(−1/2) of Σ [d, d], which must not be zero."""
    dim = len(scatter)
    shrunk = (1 - SHRINK) * scatter + SHRINK * np.trace(scatter) / dim * np.eye(dim)
    values, directions = np.linalg.eigh(shrunk)
    result: Doubles = (directions / np.sqrt(values)) @ directions.T
    return result


def unit(vectors: Floats) -> Floats:
    """Rows [N, d] at length 1; rows of zero length stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: Floats = vectors / np.where(lengths > 0, lengths, 1)
    return result


def centre(vectors: Vectors, mean: Doubles) -> Floats:
    """The vectors f = unit(unit(x) − μ), float32 [N, d]; zero where x is zero or nothing but rounding is left."""
    rows = unit(vectors.astype(np.float32))
    away = rows - mean.astype(np.float32)
    own = np.any(rows, axis=1, keepdims=True) & (np.linalg.norm(away, axis=1, keepdims=True) > ALIKE)
    return unit(away * own)


def check_finite(vectors: Vectors) -> None:
    """Raise ValueError for vectors with a NaN or an infinity."""
    bad = first_not_finite(vectors)
    if bad is not None:
        raise ValueError(f"{bad[0]} vectors are not finite, the first is row {bad[1]}")


def _with_direction(vectors: Vectors) -> Ids:
    """Rows of the vectors that are not zero."""
    blocks = [
        at + np.flatnonzero(np.asarray(vectors[at : at + BLOCK]).any(axis=1)) for at in range(0, len(vectors), BLOCK)
    ]
    return np.concatenate([np.zeros(0, np.int64), *blocks])


def _mean(vectors: Vectors) -> Doubles:
    """The mean of the unit vectors that are not zero."""
    total, count = np.zeros(vectors.shape[1]), 0
    for at in range(0, len(vectors), BLOCK):
        rows = unit(vectors[at : at + BLOCK].astype(np.float32))
        total += rows.sum(axis=0, dtype=np.float64)
        count += int(rows.any(axis=1).sum())
    return total / count


def _product(anchors: int, vectors: Vectors, threads: int, device: str) -> Product:
    """How the search computes scores; its result does not depend on this."""
    if device == "cpu" and 2.0 * anchors * vectors.size < SMALL:
        return FP32
    return this_machine(device, threads).product


def _search(vectors: Vectors, mean: Doubles, chosen: Ids, product: Product) -> tuple[Ids, Doubles]:
    """The nearest rows of each anchor by cosine of f, int64 [n, k + spare], itself among them; and the mean of f."""
    queries = centre(vectors[chosen], mean)
    k = min(1 + NEIGHBOURS + SPARE, len(vectors))
    best = nobody(len(queries), k)
    total, count = np.zeros(len(mean)), 0
    for at in range(0, len(vectors), BLOCK):
        block = centre(vectors[at : at + BLOCK], mean)
        total += block.sum(axis=0, dtype=np.float64)
        own = np.flatnonzero(block.any(axis=1))  # the others are nobody's neighbours
        count += len(own)
        if len(own):
            here = exact(queries, block[own], min(k, len(own)), product)
            best = merge([best, (at + own[here.ids], here.scores)], k)
    return best[0], total / max(1, count)


def _scatter(vectors: Vectors, mean: Doubles, chosen: Ids, found: Ids) -> tuple[Doubles, int]:
    """Σ [d, d] over the anchors' nearest others that are no near-duplicates, and the number of these pairs."""
    total, pairs = np.zeros((len(mean), len(mean))), 0
    for at in range(0, len(chosen), 1024):
        rows, near = chosen[at : at + 1024], found[at : at + 1024]
        near = np.where(near == NOBODY, rows[:, None], near)
        others, places = np.unique(near, return_inverse=True)
        places = places.reshape(near.shape)
        x, other_x = unit(vectors[rows].astype(np.float32)), unit(vectors[others].astype(np.float32))
        differs = (near != rows[:, None]) & (np.einsum("nd,nkd->nk", x, other_x[places]) < NEAR_DUPLICATE)
        f, other_f = centre(x, mean), centre(other_x, mean)
        differs &= np.any(f, axis=1, keepdims=True)
        one, column = np.nonzero(differs & (differs.cumsum(axis=1) <= NEIGHBOURS))
        difference = (f[one] - other_f[places[one, column]]).astype(np.float64)
        total += difference.T @ difference
        pairs += len(one)
    return total / (2 * max(1, pairs)), pairs
