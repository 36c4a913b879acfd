"""How well the answers alone tell the class, and what is lost without one of them.

A naive Bayes classifier (a Bernoulli variable an aspect, add-one smoothing) is fitted on one half of the images and
judged on the other, both ways. Leaving an aspect out is leaving out its term of a sum, so it costs no further fit.
It is no measure of the student, which would have to be trained again without each question.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgvr.analysis.class_sums import FOLDS, ClassSums, Floats, Ids

_CELLS = 4_000_000  # of scores at a time: 32 MB


@dataclass(frozen=True)
class LeaveOneOut:
    """What the answers tell.

    Attributes:
        images: judged.
        accuracy: share of right classes from all answers.
        drop: share of right classes that is lost without an aspect, float64 [Q].
        error: standard error of `drop`, float64 [Q].
    """

    images: int
    accuracy: float
    drop: Floats
    error: Floats


def leave_one_out(sums: ClassSums, folds: Ids, classes: Ids, p_yes: npt.NDArray[np.float32]) -> LeaveOneOut | None:
    """Judge images by the sums of the other fold; None where there is nothing to tell apart.

    Args:
        sums: over all images, those judged among them.
        folds: int64 [N], of the images that are judged.
        classes: int64 [N].
        p_yes: float32 [N, Q]; a missing answer (nan) tells nothing.
    """
    if not len(classes) or not p_yes.shape[1] or any((sums.images[fold] > 0).sum() < 2 for fold in range(FOLDS)):
        return None
    right = np.zeros(len(classes))
    without = np.zeros((len(classes), p_yes.shape[1]))
    step = max(1, _CELLS // sums.images.shape[1])
    for fold in range(FOLDS):
        yes, no, prior = _fitted(sums, 1 - fold)
        judged = np.flatnonzero(folds == fold)
        for start in range(0, len(judged), step):
            rows = judged[start : start + step]
            there = ~np.isnan(p_yes[rows])
            p = np.where(there, p_yes[rows], 0).astype(np.float64)
            scores = prior + p @ yes.T + (there - p) @ no.T
            right[rows] = scores.argmax(axis=1) == classes[rows]
            for question in range(p.shape[1]):
                term = np.outer(p[:, question], yes[:, question])
                term += np.outer(there[:, question] - p[:, question], no[:, question])
                without[rows, question] = (scores - term).argmax(axis=1) == classes[rows]
    lost = right[:, None] - without
    return LeaveOneOut(
        len(classes), float(right.mean()), lost.mean(axis=0), lost.std(axis=0) / np.sqrt(max(1, len(classes)))
    )


def _fitted(sums: ClassSums, fold: int) -> tuple[Floats, Floats, Floats]:
    """Log-probabilities of yes [C, Q] and of no [C, Q], and of the classes [C] (-inf for one that is not there)."""
    p = (sums.sums[fold] + 1) / (sums.counts[fold] + 2)
    images = sums.images[fold]
    with np.errstate(divide="ignore"):
        prior = np.log(images / images.sum())
    return np.log(p), np.log1p(-p), prior
