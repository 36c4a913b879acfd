"""The information in aspects: about classes, and how far the student learned it; and t-SNE maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgvr.arrays import Doubles, Ids

# How far the student's aspect outputs follow the MLLM's answers.


@dataclass(frozen=True)
class AspectAgreement:
    """Comparison of two sets of p(yes) on the same images, question by question; nan if undefined.

    Attributes:
        images: number of images compared; those without any answer on either side are left out.
        correlation: Pearson's, float64 [Q]; nan if one side always gives the same answer.
        difference: mean |p - q|, float64 [Q].
        same: share of images with the same answer (yes from 0.5 on), float64 [Q].
    """

    images: int
    correlation: Doubles
    difference: Doubles
    same: Doubles


def compare_aspects(mllm: npt.NDArray[np.float32], student: npt.NDArray[np.float32]) -> AspectAgreement:
    """Compare answers [N, Q] with outputs [N, Q]; nan where one is missing."""
    there = ~(np.isnan(mllm) | np.isnan(student))
    questions = mllm.shape[1]
    correlation, difference, same = (np.full(questions, np.nan) for _ in range(3))
    for question in range(questions):
        rows = there[:, question]
        if not rows.any():
            continue
        p, q = mllm[rows, question].astype(np.float64), student[rows, question].astype(np.float64)
        difference[question] = np.abs(p - q).mean()
        same[question] = ((p >= 0.5) == (q >= 0.5)).mean()
        spread = p.std() * q.std()
        if spread > 1e-12:
            correlation[question] = ((p - p.mean()) * (q - q.mean())).mean() / spread
    return AspectAgreement(int(there.any(axis=1).sum()), correlation, difference, same)


# Aspects by class: means of p(yes), and how much an answer tells about the class.
#
# Sums per class and question are enough for that, so a table of any length is read only once, part by part.


FOLDS = 2
"""The images are split into two halves, so that one can be evaluated with the statistics of the other."""


def halves(classes: Ids) -> Ids:
    """The fold of each image, int64 [N]: the images of a class alternate, so that each fold has half of every class.

    Rows as a whole do not alternate: if a listing cycles through the classes, each class would be in one fold only.

    Args:
        classes: int64 [N].
    """
    folds = np.empty(len(classes), dtype=np.int64)
    folds[np.argsort(classes, kind="stable")] = np.arange(len(classes)) % FOLDS
    return folds


class ClassSums:
    """Sums of p(yes) and numbers of answers, per fold, class and question.

    Attributes:
        sums: float64 [FOLDS, C, Q].
        counts: int64 [FOLDS, C, Q]; number of existing answers.
        images: int64 [FOLDS, C].
    """

    def __init__(self, classes: int, questions: int) -> None:
        self.sums: Doubles = np.zeros((FOLDS, classes, questions))
        self.counts: Ids = np.zeros((FOLDS, classes, questions), dtype=np.int64)
        self.images: Ids = np.zeros((FOLDS, classes), dtype=np.int64)

    def add(self, folds: Ids, classes: Ids, p_yes: npt.NDArray[np.float32]) -> None:
        """Add images with their folds [n], classes [n] and answers [n, Q]; nan if missing."""
        there = ~np.isnan(p_yes)
        np.add.at(self.sums, (folds, classes), np.where(there, p_yes, 0).astype(np.float64))
        np.add.at(self.counts, (folds, classes), there.astype(np.int64))
        np.add.at(self.images, (folds, classes), 1)

    def means(self) -> Doubles:
        """Mean p(yes) of every class, float64 [C, Q]; nan where a class has no answer."""
        counts = self.counts.sum(axis=0)
        means: Doubles = np.where(counts > 0, self.sums.sum(axis=0) / np.maximum(counts, 1), np.nan)
        return means


def mutual_information(means: Doubles, counts: Ids) -> Doubles:
    """How many bits an answer tells about the class, float64 [Q]: H(p̄) - Σ_c P(c) H(p̄_c).

    An answer counts as "yes" with its own probability, so uncertain answers tell less. For answers of 0 and 1 this is
    the mutual information of answer and class (scikit-learn's `mutual_info_score` divided by ln 2).

    Args:
        means: mean p(yes) of every class, [C, Q]; nan if a class has no answer.
        counts: number of answers behind them, [C, Q].
    """
    total = np.maximum(counts.sum(axis=0), 1)
    known = np.nan_to_num(means)
    of_all = (known * counts).sum(axis=0) / total
    within = (entropy(known) * counts).sum(axis=0) / total
    bits: Doubles = np.maximum(entropy(of_all) - within, 0)
    return bits


def chance_bits(counts: Ids) -> Doubles:
    """Bits that answers without any relation to the class would seem to tell, float64 [Q].

    (K - 1) / (2 N ln 2) for K classes and N yes/no answers (Miller 1955): with few images per class, chance looks
    like information.
    """
    classes = (counts > 0).sum(axis=0)
    bits: Doubles = np.maximum(classes - 1, 0) / (2 * np.maximum(counts.sum(axis=0), 1) * np.log(2))
    return bits


def entropy(p: Doubles) -> Doubles:
    """Bits of a yes or no of probability p, any shape."""
    inside = np.clip(p, 1e-300, 1 - 1e-16)
    bits: Doubles = -(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside))
    certain = (p <= 0) | (p >= 1)
    bits[certain] = 0
    return bits


# How well the answers alone predict the class, and what is lost without one of them.
#
# A naive Bayes classifier (one Bernoulli variable per aspect, add-one smoothing) is fitted on one half of the images
# and evaluated on the other, both ways. Leaving an aspect out means leaving out one term of a sum, so it needs no
# refit. This does not measure the student, which would have to be retrained without each question.

_CELLS = 4_000_000  # scores computed at a time: 32 MB


@dataclass(frozen=True)
class LeaveOneOut:
    """Leave-one-out results for the aspects.

    Attributes:
        images: number of images evaluated.
        accuracy: share of right classes from all answers.
        drop: share of right classes that is lost without each aspect, float64 [Q].
        error: standard error of `drop`, float64 [Q].
    """

    images: int
    accuracy: float
    drop: Doubles
    error: Doubles


def leave_one_out(sums: ClassSums, folds: Ids, classes: Ids, p_yes: npt.NDArray[np.float32]) -> LeaveOneOut | None:
    """Evaluate images with the sums of the other fold; None if there is nothing to distinguish.

    Args:
        sums: sums over all images, including those evaluated.
        folds: int64 [N], folds of the images that are evaluated.
        classes: int64 [N].
        p_yes: float32 [N, Q]; a missing answer (nan) is ignored.
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


def _fitted(sums: ClassSums, fold: int) -> tuple[Doubles, Doubles, Doubles]:
    """Log-probabilities of yes [C, Q] and of no [C, Q], and of the classes [C] (-inf for one that is not there)."""
    p = (sums.sums[fold] + 1) / (sums.counts[fold] + 2)
    images = sums.images[fold]
    with np.errstate(divide="ignore"):
        prior = np.log(images / images.sum())
    return np.log(p), np.log1p(-p), prior


# t-SNE maps of aspect vectors (the paper's figure 5).

PERPLEXITY = 30
LEAST = 5
"""With fewer distinct vectors, a map would show nothing."""


def project(p_yes: npt.NDArray[np.float32], seed: int) -> Doubles | None:
    """t-SNE of aspect vectors [N, Q] as points [N, 2] in the unit square; None for fewer than LEAST distinct ones.

    A missing answer (nan) is replaced by the mean of its question.
    """
    if not p_yes.size:
        return None
    there = ~np.isnan(p_yes)
    means = np.where(there, p_yes, 0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    vectors = np.where(there, p_yes, means).astype(np.float32)
    if len(np.unique(vectors, axis=0)) < LEAST:
        return None
    from sklearn.manifold import TSNE

    model = TSNE(
        perplexity=min(PERPLEXITY, (len(vectors) - 1) / 3),
        init="pca" if vectors.shape[1] > 1 else "random",
        random_state=seed,
        n_jobs=1,
    )
    points = model.fit_transform(vectors).astype(np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    placed: Doubles = (points - low) / np.maximum(high - low, 1e-9)
    return placed
