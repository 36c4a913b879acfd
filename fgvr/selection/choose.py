"""Which images are asked about: the medoid or a typical image of each cluster, near-duplicates once.

With few answers, what matters is that every kind of image is among those asked about, and that the answer is about an
image that stands for others. Both follow from one image per k-means cluster: the *medoid*, which is nearest to the
centre, or the *typical* image, which is nearest to its neighbours in the cluster (TypiClust: Hacohen, Dekel, Weinshall,
ICML 2022). Neither was better than the other beyond the noise (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fgvr.arrays import Floats, Ids
from fgvr.neighbours import Vectors, nearest
from fgvr.neighbours.duplicates import NEIGHBOURS as MOST_COPIES
from fgvr.neighbours.duplicates import group
from fgvr.selection import kmeans
from fgvr.selection.kmeans import Clusters
from fgvr.selection.whitening import NEAR_DUPLICATE, unit

RULES = 1
"""Increase it when the same vectors would make other images be asked about."""
TYPICAL_NEIGHBOURS = 20
"""Nearest images of the cluster to which a typical image is near, as in TypiClust; half of a smaller cluster."""
MOST_TYPICAL = 512
"""Images of a cluster, those nearest to its centre, among which a typical one is sought."""

How = Literal["medoids", "typical"]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Chosen:
    """The images to ask about.

    Attributes:
        rows: their positions, int64 [n], ascending. Fewer than wanted if there are not so many different images.
        filled: bool [n], drawn at random, since a cluster was empty or its image a near-duplicate of another.
    """

    rows: Ids
    filled: Flags


@dataclass(frozen=True)
class Space:
    """The images to choose from.

    Attributes:
        vectors: as the model gave them, [N, d]: near-duplicates are recognised by them. May be memory-mapped.
        whitened: the same images in the whitened space, [N, d]; zero for an image without a direction.
        duplicate: cosine of `vectors` from which two images count as one photo.
    """

    vectors: Vectors
    whitened: Vectors
    duplicate: float = NEAR_DUPLICATE

    def __len__(self) -> int:
        """Number of images."""
        return len(self.vectors)

    def of(self, rows: Ids) -> Floats:
        """The model's vectors of some images at unit length, float32 [n, d]."""
        return unit(np.asarray(self.vectors[rows], np.float32))


def choose(
    space: Space,
    count: int,
    how: How = "medoids",
    *,
    asked: Ids | None = None,
    weights: Floats | None = None,
    seed: int = 0,
    threads: int = 1,
    device: str = "cpu",
) -> Chosen:
    """The images to ask about: `count` of them, if there are so many that differ.

    Images that are near-duplicates of one that was asked about, or of one that is chosen, are not chosen. What is then
    missing, and images for empty clusters, is drawn at random.

    Args:
        space: the images.
        count: how many are asked about, at least 1.
        how: which image of a cluster.
        asked: rows of images that were asked about before, int64 [a].
        weights: how much each image counts, float32 [N]; those of weight 0 are not chosen. None: all alike.
        seed: of all random draws.
        threads: number of cores that may be used.
        device: where the clusters are computed, "cpu" or "cuda".
    """
    before = np.zeros(0, np.int64) if asked is None else np.asarray(asked, np.int64)
    free = np.ones(len(space), bool) if weights is None else weights > 0
    free[before] = False
    picks = np.zeros(0, np.int64)
    if free.sum() > count:
        here = _weights(space, free, weights)
        centres = kmeans.spherical_kmeans(
            space.whitened, count, weights=here, seed=seed, threads=threads, device=device
        )
        clusters = kmeans.assign(space.whitened, centres, threads=threads, device=device)
        rows = np.flatnonzero(here > 0)
        own = Clusters(clusters.nearest[rows], clusters.similarity[rows])
        picks = rows[medoids(own) if how == "medoids" else typical(own, space.whitened, rows)]
        picks = np.sort(picks)
    kept = picks[different(space, picks, before, threads=threads)]
    chosen, filled = [kept], [np.zeros(len(kept), bool)]
    there = len(kept)
    taken = np.concatenate([before, kept])
    free[picks] = False
    for some in _shuffled(np.flatnonzero(free), seed):
        if there == count:
            break
        more = some[different(space, some, taken, threads=threads)][: count - there]
        chosen.append(more)
        filled.append(np.ones(len(more), bool))
        taken = np.concatenate([taken, more])
        there += len(more)
    rows, at_random = np.concatenate(chosen), np.concatenate(filled)
    order = np.argsort(rows)
    return Chosen(rows[order], at_random[order])


def _weights(space: Space, free: Flags, weights: Floats | None) -> Floats:
    """The weight of each image in the clusters: none for images that may not be chosen or have no direction."""
    result = (np.ones(len(space), np.float32) if weights is None else weights.astype(np.float32)) * free
    there = np.concatenate(
        [np.any(space.whitened[at : at + 65_536], axis=1) for at in range(0, len(space), 65_536)],
    )
    return result * there if (result * there).any() else result


def _shuffled(rows: Ids, seed: int) -> Iterator[Ids]:
    """The rows in random order, in growing blocks: mostly the first few suffice."""
    order = np.random.default_rng([seed, 1]).permutation(rows)
    at, step = 0, 256
    while at < len(order):
        yield order[at : at + step]
        at, step = at + step, min(2 * step, 16_384)


def medoids(clusters: Clusters) -> Ids:
    """The row that is nearest to the centre of each cluster that has any, int64; the first among equals."""
    order = np.lexsort((-clusters.similarity, clusters.nearest))
    _, first = np.unique(clusters.nearest[order], return_index=True)
    found: Ids = order[first]
    return found


def typical(clusters: Clusters, whitened: Vectors, rows: Ids) -> Ids:
    """The row of each cluster with the largest mean similarity to its nearest images in the cluster, int64.

    Args:
        clusters: of the n rows.
        whitened: vectors of all images, [N, d].
        rows: int64 [n], which images the clusters are of.

    Returns:
        Positions in `rows`, one per cluster that has any; the image nearest to the centre among equals.
    """
    order = np.lexsort((-clusters.similarity, clusters.nearest))
    _, first = np.unique(clusters.nearest[order], return_index=True)
    found: list[int] = []
    for members in np.split(order, first[1:]):
        near = members[:MOST_TYPICAL]
        vectors = np.asarray(whitened[rows[near]], np.float32)
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -np.inf)
        k = max(1, min(TYPICAL_NEIGHBOURS, len(near) // 2))
        density = np.partition(cosines, len(near) - k, axis=1)[:, len(near) - k :].mean(axis=1)
        found.append(int(near[density.argmax()]))
    return np.array(found, np.int64)


def different(space: Space, rows: Ids, taken: Ids, *, threads: int = 1) -> Flags:
    """Which of these images are no near-duplicates of a taken one, nor of an earlier one of these: bool [n].

    Args:
        space: the images.
        rows: int64 [n].
        taken: images that are asked about already, int64 [t].
        threads: number of cores that may be used.
    """
    if not len(rows):
        return np.zeros(0, bool)
    vectors = space.of(rows)
    found = nearest(vectors, vectors, 1 + MOST_COPIES, threads=threads)
    groups = group(found.ids, found.scores, space.duplicate)
    first: Flags = groups.first == np.arange(len(rows))
    if len(taken):
        first &= nearest(vectors, space.of(taken), 1, threads=threads).scores[:, 0] < space.duplicate
    return first
