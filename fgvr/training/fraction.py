"""A share of the training images, for the ablation of less data: stratified by class, and nested."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fgvr.training.targets import Ids, numbered

FIRST = -1.0


def fraction_of(classes: Ids, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which of N images belong to the share: bool [N].

    Every class is shuffled; image r of a class of n lies at (r + u) / n, u uniform in [0, 1) and one a class, so that
    the images below f are n·f of every class within one. The share is the round(N · f) lowest: of the same seed, a
    smaller share is inside a larger one, which largest remainders, drawn anew for each share, would not give. The first
    image of every class comes before all others, so that no class is lost: there are as many images as classes at
    least.

    Args:
        classes: int64 [N], the class of each image.
        fraction: in (0, 1].
        seed: of the shuffling and of u.
    """
    rng = np.random.default_rng(seed)
    inverse, counts = numbered(classes)
    shuffled = rng.permutation(len(classes))
    by_class = shuffled[np.argsort(inverse[shuffled], kind="stable")]
    rank = np.empty(len(classes), dtype=np.int64)
    rank[by_class] = np.arange(len(classes)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = (rank + rng.random(len(counts))[inverse]) / counts[inverse]
    place[rank == 0] = FIRST
    chosen = np.zeros(len(classes), dtype=bool)
    chosen[np.argsort(place, kind="stable")[: max(len(counts), round(len(classes) * fraction))]] = True
    return chosen
