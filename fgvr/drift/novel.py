"""Photos that fit nothing, and their clusters: a new kind is many photos that fit nothing and lie together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fgvr.arrays import NONE, Doubles, Floats, Ids
from fgvr.drift.scores import unit
from fgvr.neighbours import Vectors
from fgvr.selection import kmeans

RULES = 1
"""Increase it when the same scores would give other photos or clusters."""
PHOTOS_PER_CLUSTER = 25
MOST_CLUSTERS = 200


def novel_rows(fit: Doubles, false_alarms: float, most: int) -> Ids:
    """Positions of the photos that fit worst, int64, worst first: those whose `fit` is at most `false_alarms`.

    Args:
        fit: as `fgvr.drift.scores.fit` gives it, float64 [N]; NaN: not judged, never novel.
        false_alarms: share of photos like the reference that are accepted to be among them.
        most: the most photos.
    """
    rows = np.flatnonzero(np.nan_to_num(fit, nan=np.inf) <= false_alarms)
    order = rows[np.argsort(fit[rows], kind="stable")]
    return order[:most]


@dataclass(frozen=True)
class Grouped:
    """Clusters of n photos, the largest first: a number per photo, int64 [n]; and its cosine to the centre."""

    cluster: Ids
    similarity: Floats


def grouped(vectors: Vectors, clusters: int | None = None, *, seed: int = 0, threads: int = 1) -> Grouped:
    """Cluster photos by cosine (spherical k-means).

    Args:
        vectors: of the photos, [n, d]; a vector without a direction belongs to no cluster (`NONE`, similarity 0).
        clusters: how many; None: one per `PHOTOS_PER_CLUSTER` photos, at most `MOST_CLUSTERS`.
        seed: of the start.
        threads: number of cores that may be used.
    """
    rows = unit(vectors)
    cluster, similarity = np.full(len(rows), NONE, np.int64), np.zeros(len(rows), np.float32)
    good = np.flatnonzero(np.isfinite(rows).all(axis=1))
    if not len(good):
        return Grouped(cluster, similarity)
    count = clusters or min(MOST_CLUSTERS, max(1, round(len(good) / PHOTOS_PER_CLUSTER)))
    centres = kmeans.spherical_kmeans(rows[good], min(count, len(good)), seed=seed, threads=threads)
    found = kmeans.assign(rows[good], centres, threads=threads)
    _, back, sizes = np.unique(found.nearest, return_inverse=True, return_counts=True)
    place = np.empty(len(sizes), np.int64)
    place[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    cluster[good], similarity[good] = place[back], found.similarity
    return Grouped(cluster, similarity)
