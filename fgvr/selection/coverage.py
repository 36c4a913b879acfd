"""What the images that were asked about cover, and what asking about more would likely bring.

An image is *covered* if the asked image nearest to it has its name. How likely that is depends on how near they are,
and the asked images themselves say how: the name of each is compared with that of the nearest other one. These pairs
give P(same name | cosine) by isotonic regression, and its mean over all images is the covered share.

What it is not: a share of *right* names. Where the model makes the same mistake about neighbours, they agree.

For twice as many questions the curve is continued: the covered share for a random quarter, half, and all of the asked
images is known, and each doubling is assumed to gain as much less as the last one gained less than the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fgvr.arrays import NONE, Doubles, Floats, Ids
from fgvr.neighbours import Vectors, nearest
from fgvr.neighbours.exact import tensor, torch_threads
from fgvr.selection.kmeans import blocks

BINS = 200
"""Of cosines from −1 to 1."""
SHARES = (4, 2, 1)
"""A quarter, half, and all of the asked images."""
LEAST = 10
"""Asked images with a name below which nothing is estimated."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reach:
    """How near the images are to those that were asked about.

    Attributes:
        counts: images by their largest cosine to an asked image, for each of `SHARES`, int64 [3, `BINS`]; without the
            asked images.
        nearest: for each asked image, the position of the asked image nearest to it, int64 [n]; −1 if it is the only
            one.
        similarity: cosine to that one, float32 [n].
    """

    counts: Counts
    nearest: Ids
    similarity: Floats


def reach(whitened: Vectors, asked: Ids, *, seed: int = 0, threads: int = 1, device: str = "cpu") -> Reach:
    """Compare all images with those that were asked about.

    Args:
        whitened: all images, of unit length, [N, d]; may be memory-mapped.
        asked: rows of those that were asked about, int64 [n], n at least 1.
        seed: decides which of them are the quarter and the half.
        threads: number of cores that may be used.
        device: where products are computed, "cpu" or "cuda".
    """
    vectors = np.asarray(whitened[asked], np.float32)
    others = nearest(vectors, vectors, 2, own=np.arange(len(asked)), threads=threads)
    order = np.random.default_rng([seed, 2]).permutation(len(asked))
    first = [max(1, len(asked) // share) for share in SHARES]
    counts = np.zeros((len(SHARES), BINS), np.int64)
    free = np.ones(len(whitened), bool)
    free[asked] = False
    with torch_threads(threads):
        directions = tensor(np.ascontiguousarray(vectors[order])).to(device).T
        for here, rows in blocks(whitened, len(asked), device):
            scores = rows @ directions
            best = torch.stack([scores[:, :number].max(dim=1).values for number in first]).cpu().numpy()
            for row, cosines in enumerate(best[:, free[here]]):
                counts[row] += np.histogram(np.clip(cosines, -1, 1), BINS, (-1, 1))[0]
    return Reach(counts, others.ids[:, 1], others.scores[:, 1])


@dataclass(frozen=True)
class Coverage:
    """Estimates from the names of the asked images.

    Attributes:
        covered: share of the images for which the asked image nearest to them has their name.
        half: the same if half as many had been asked about.
        doubled: the same if twice as many were asked about, by continuing the curve.
        new_names: share of further images whose name no asked image has, by Good and Turing (Good, Biometrika 40,
            1953): the share of the asked images whose name no other has. It holds for the very next ones, and falls.
    """

    covered: float
    half: float
    doubled: float
    new_names: float


def coverage(reached: Reach, labels: Ids) -> Coverage | None:
    """The estimates; None if fewer than `LEAST` asked images have a name, or all images were asked about.

    Args:
        reached: of the asked images.
        labels: their label ids, int64 [n]; `NONE` where an answer failed.
    """
    other = np.where(reached.nearest == NONE, NONE, labels[reached.nearest])
    pair = (labels != NONE) & (other != NONE)
    if pair.sum() < LEAST or not reached.counts[-1].any():
        return None
    agreement = _agreement(reached.similarity[pair], labels[pair] == other[pair])
    quarter, half, covered = (float(counts @ agreement / counts.sum()) for counts in reached.counts)
    _, frequency = np.unique(labels[labels != NONE], return_counts=True)
    return Coverage(
        covered, half, _continued((quarter, half, covered)), float((frequency == 1).sum() / frequency.sum())
    )


def _agreement(similarity: Floats, same: npt.NDArray[np.bool_]) -> Doubles:
    """P(same name | cosine) in the middle of each bin, float64 [`BINS`]: never falling; constant beyond the pairs."""
    from sklearn.isotonic import IsotonicRegression

    middles = (np.arange(BINS) + 0.5) * 2 / BINS - 1
    fitted: Doubles = IsotonicRegression(out_of_bounds="clip").fit(similarity, same.astype(float)).predict(middles)
    return fitted


def _continued(curve: Sequence[float]) -> float:
    """The next value of a curve whose gains shrink by the same factor, which is at most 1."""
    quarter, half, whole = curve
    gain, before = max(0.0, whole - half), half - quarter
    return min(1.0, whole + gain * (min(1.0, gain / before) if before > 0 else 1.0))
