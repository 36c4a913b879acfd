"""Confidence intervals of means and shares over images."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

NORMAL_FROM = 20_000
"""From this many images on, no resampling: the central limit theorem gives the same interval within rounding."""


def interval(
    scores: npt.NDArray[np.float64], *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Bootstrap percentile interval (Efron 1979) of the mean of per-image scores [N].

    For cACC the matching of names comes from the full sample: the interval covers the images, not the matching.

    Returns:
        (low, high), or None for fewer than two images or `resamples` = 0.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if resamples == 0 or scores.size < 2:
        return None
    tail = (1 - level) / 2
    if scores.size >= NORMAL_FROM:
        return normal_interval(scores, np.ones(scores.size, dtype=np.int64), level=level)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for index in range(resamples):  # one resample at a time: memory stays at N
        means[index] = scores[rng.integers(scores.size, size=scores.size)].mean()
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def normal_interval(
    scores: npt.NDArray[np.float64], weights: npt.NDArray[np.int64], *, level: float = 0.95
) -> tuple[float, float]:
    """The same of many images by the central limit theorem; `weights`: how many images have each score, int64 [n]."""
    images = int(weights.sum())
    mean = float(np.average(scores, weights=weights))
    variance = float(np.average((scores - mean) ** 2, weights=weights)) * images / (images - 1)
    half = NormalDist().inv_cdf(1 - (1 - level) / 2) * (variance / images) ** 0.5
    return mean - half, mean + half


def wilson(right: float, images: float) -> tuple[float, float]:
    """The 95% score interval (Wilson 1927) of a share, as shares; (0, 1) without images."""
    if images <= 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.975)
    share, spread = right / images, z**2 / images
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * (share * (1 - share) / images + spread / (4 * images)) ** 0.5
    # Without rounding, a share of 0 or 1 is an end of its own interval.
    return 0.0 if right <= 0 else max(0.0, middle - half), 1.0 if right >= images else min(1.0, middle + half)
