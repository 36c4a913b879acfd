"""Images of a few classes as clusters of unit vectors, with labels of which a known share is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fgvr.arrays import Floats, Ids, Labels


@dataclass(frozen=True)
class Planted:
    """Unit vectors [N, d] of images, their classes, noisy labels, and the class directions [C, d]."""

    vectors: Floats
    truth: Labels
    own: Labels
    directions: Floats

    @property
    def wrong(self) -> np.ndarray:
        return self.own != self.truth


def unit(rows: np.ndarray) -> Floats:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def planted(seed: int, classes: int = 8, each: int = 20, *, spread: float = 0.15, wrong: float = 0.3) -> Planted:
    """`spread` is the standard deviation per number around a class's direction, of 24 numbers."""
    random = np.random.default_rng(seed)
    directions = unit(random.standard_normal((classes, 24)))
    truth = np.repeat(np.arange(classes, dtype=np.int32), each)
    vectors = unit(directions[truth] + spread * random.standard_normal((len(truth), 24)))
    other = (truth + random.integers(1, classes, len(truth))) % classes
    own = np.where(random.random(len(truth)) < wrong, other, truth).astype(np.int32)
    return Planted(vectors, truth, own, directions)


def nearest(vectors: Floats, k: int) -> tuple[Ids, Floats]:
    """The k nearest others of each image, by all cosines."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    ids = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return ids.astype(np.int64), np.take_along_axis(cosines, ids, axis=1).astype(np.float32)
