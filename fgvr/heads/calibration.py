"""One temperature per model, so that a score of 0.8 is right in about 8 of 10 held-out images.

Held-out images are compared with their own *labels*: without truth, what is calibrated is agreement with the labeller.
Where its mistakes are systematic the model repeats them, and scores are too high by what an audit would show.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from fgvr.arrays import NONE, Floats, Ids

FOLDS = 3
HELD_OUT = 5000
"""Images held out at most. With more images than `FOLDS` times as many, one fold of this size is held out."""
COLDEST, HOTTEST = 0.02, 50.0


def held_out_folds(images: int, seed: int) -> Iterator[Ids]:
    """Rows of the images held out in turn, int64, ascending: `FOLDS` parts of all, or one sample of `HELD_OUT`."""
    order = np.random.default_rng(seed).permutation(images)
    if images > FOLDS * HELD_OUT:
        yield np.sort(order[:HELD_OUT])
        return
    for fold in np.array_split(order, FOLDS):
        if len(fold):
            yield np.sort(fold)


def fit_temperature(logits: npt.NDArray[np.floating], labels: Ids) -> float:
    """The T that maximises the likelihood of the labels: p = mean over members of softmax(logits / T).

    Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017). 1 where no image has a label, or none a label
    with a finite logit.

    Args:
        logits: of held-out images, float [M, n, C] for M members of an ensemble; −inf for an impossible name.
        labels: their columns, int64 [n]; `NONE` if an image has none.
    """
    rows = np.flatnonzero(labels != NONE)
    members = np.asarray(logits, np.float64)[:, rows]
    own = np.take_along_axis(members, labels[rows][None, :, None], axis=2)[:, :, 0]
    possible = np.isfinite(own).all(axis=0)
    if not possible.any():
        return 1.0
    members, columns = members[:, possible], labels[rows][possible][None, :, None]

    def surprise(log_temperature: float) -> float:
        log_p = log_softmax(members / np.exp(log_temperature), axis=2)
        of_label = np.take_along_axis(log_p, columns, axis=2)[:, :, 0]
        return -float((logsumexp(of_label, axis=0) - np.log(len(members))).mean())

    found = minimize_scalar(surprise, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))


def calibration_error(scores: Floats, right: npt.NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error, 0 … 1: mean |accuracy − confidence| over bins of equal width, by their images.

    Args:
        scores: probability of each image's predicted name, float [n].
        right: bool [n].
        bins: number of bins.
    """
    if not len(scores):
        return 0.0
    place = np.minimum((scores * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, weights=right.astype(np.float64) - scores, minlength=bins)
    return float(np.abs(gaps).sum() / len(scores))
