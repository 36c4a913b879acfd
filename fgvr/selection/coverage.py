"""What the images that were asked about cover, and what asking about more would likely bring.

An image is *covered* if the asked image nearest to it has its name. How likely that is depends on how near they are,
and the asked images themselves say how: the name of each is compared with that of the nearest other one. These pairs
give P(same name | cosine) by logistic regression, and its mean over all images is the covered share.

What it is not: a share of *right* names. Where the model makes the same mistake about neighbours, they agree. And asked
images are further from each other than others are from them, so that the curve is used where it has few pairs.

For twice as many questions no answer is needed to know which images they would be about, nor how near all others would
be to those: they are chosen, and the same P applies. Continuing the curve of a half and all of the asked images instead
said up to 0.2 too much: half of the medoids are worse than the medoids of half as many clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgvr.arrays import NONE, Doubles, Floats, Ids
from fgvr.neighbours import Vectors, nearest
from fgvr.selection.kmeans import Clusters, assign

BINS = 200
"""Of cosines from −1 to 1."""
LEAST = 10
"""Asked images with a name below which nothing is estimated."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reach:
    """How near the images are to those that were asked about.

    Attributes:
        counts: the images that were not asked about, by their largest cosine to one that was, int64 [`BINS`].
        nearest: for each asked image, the position of the asked image nearest to it, int64 [n]; −1 if it is the only
            one.
        similarity: cosine to that one, float32 [n]; −inf if there is none.
        stands_for: of how many images it is the nearest asked one, itself included, int64 [n].
    """

    counts: Counts
    nearest: Ids
    similarity: Floats
    stands_for: Ids


def reach(whitened: Vectors, asked: Ids, *, threads: int = 1, device: str = "cpu") -> Reach:
    """Compare all images with those that were asked about.

    Args:
        whitened: all images, of unit length, [N, d]; may be memory-mapped.
        asked: rows of those that were asked about, int64 [n], n at least 1.
        threads: number of cores that may be used.
        device: where products are computed, "cpu" or "cuda".
    """
    vectors = np.asarray(whitened[asked], np.float32)
    others = nearest(vectors, vectors, 2, own=np.arange(len(asked)), threads=threads)
    clusters = assign(whitened, vectors, threads=threads, device=device)
    members = np.bincount(np.delete(clusters.nearest, asked), minlength=len(asked))
    return Reach(_histogram(clusters, asked), others.ids[:, 1], others.scores[:, 1], members + 1)


def distances(whitened: Vectors, asked: Ids, *, threads: int = 1, device: str = "cpu") -> Counts:
    """As `Reach.counts`, for images that might be asked about: see `reach` for the arguments."""
    vectors = np.asarray(whitened[asked], np.float32)
    return _histogram(assign(whitened, vectors, threads=threads, device=device), asked)


def _histogram(clusters: Clusters, asked: Ids) -> Counts:
    cosines = np.clip(np.delete(clusters.similarity, asked), -1, 1)
    return np.histogram(cosines, BINS, (-1, 1))[0].astype(np.int64)


@dataclass(frozen=True)
class Coverage:
    """Estimates from the names of the asked images.

    Attributes:
        covered: share of the images for which the asked image nearest to them has their name.
        doubled: the same if twice as many were asked about; None if there are not so many images.
        new_names: share of further images whose name no asked image has, by Good and Turing (Good, Biometrika 40,
            1953): the share of the asked images whose name no other has. It holds for the very next ones, and falls.
    """

    covered: float
    doubled: float | None
    new_names: float


def coverage(reached: Reach, labels: Ids, doubled: Counts | None = None) -> Coverage | None:
    """The estimates; None if fewer than `LEAST` asked images have a name, or all images were asked about.

    Args:
        reached: of the asked images.
        labels: their label ids, int64 [n]; `NONE` where an answer failed.
        doubled: `distances` to twice as many.
    """
    other = np.where(reached.nearest == NONE, NONE, labels[reached.nearest])
    pair = (labels != NONE) & (other != NONE)
    if pair.sum() < LEAST or not reached.counts.any():
        return None
    agreement = _agreement(reached.similarity[pair], labels[pair] == other[pair])
    twice = None if doubled is None or not doubled.any() else float(doubled @ agreement / doubled.sum())
    _, frequency = np.unique(labels[labels != NONE], return_counts=True)
    return Coverage(
        covered=float(reached.counts @ agreement / reached.counts.sum()),
        doubled=twice,
        new_names=float((frequency == 1).sum() / frequency.sum()),
    )


def _agreement(similarity: Floats, same: npt.NDArray[np.bool_]) -> Doubles:
    """P(same name | cosine) in the middle of each bin, float64 [`BINS`]; it never falls."""
    from sklearn.linear_model import LogisticRegression

    constant = np.full(BINS, float(same.mean()))
    if same.all() or not same.any():
        return constant
    fitted = LogisticRegression(C=1e4).fit(similarity[:, None], same)
    middles = (np.arange(BINS) + 0.5) * 2 / BINS - 1
    # Neighbours that agree less the nearer they are: chance, in few pairs.
    return fitted.predict_proba(middles[:, None])[:, 1] if fitted.coef_[0, 0] > 0 else constant
