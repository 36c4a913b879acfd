"""Aspects by class: means of p(yes), and how much an answer says about the class.

Sums a class and question are enough for that, so a table of any length is read once, part by part.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]

FOLDS = 2
"""Halves of the images that are kept apart, so that one can be judged by what the other shows."""


def halves(classes: Ids) -> Ids:
    """The fold of each image, int64 [N]: the images of a class in turn, so that both folds have half of every class.

    Not all rows in turn: a listing that goes round the classes would put each class into one fold only.

    Args:
        classes: int64 [N].
    """
    folds = np.empty(len(classes), dtype=np.int64)
    folds[np.argsort(classes, kind="stable")] = np.arange(len(classes)) % FOLDS
    return folds


class ClassSums:
    """Sums of p(yes) and numbers of answers, by fold, class and question.

    Attributes:
        sums: float64 [FOLDS, C, Q].
        counts: int64 [FOLDS, C, Q]; answers that are there.
        images: int64 [FOLDS, C].
    """

    def __init__(self, classes: int, questions: int) -> None:
        self.sums: Floats = np.zeros((FOLDS, classes, questions))
        self.counts: Ids = np.zeros((FOLDS, classes, questions), dtype=np.int64)
        self.images: Ids = np.zeros((FOLDS, classes), dtype=np.int64)

    def add(self, folds: Ids, classes: Ids, p_yes: npt.NDArray[np.float32]) -> None:
        """Images with their folds [n], classes [n] and answers [n, Q]; nan where there is none."""
        there = ~np.isnan(p_yes)
        np.add.at(self.sums, (folds, classes), np.where(there, p_yes, 0).astype(np.float64))
        np.add.at(self.counts, (folds, classes), there.astype(np.int64))
        np.add.at(self.images, (folds, classes), 1)

    def means(self) -> Floats:
        """Mean p(yes) of every class, float64 [C, Q]; nan where a class has no answer."""
        counts = self.counts.sum(axis=0)
        means: Floats = np.where(counts > 0, self.sums.sum(axis=0) / np.maximum(counts, 1), np.nan)
        return means


def mutual_information(means: Floats, counts: Ids) -> Floats:
    """How many bits an answer tells about the class, float64 [Q]: H(p̄) - Σ_c P(c) H(p̄_c).

    An answer counts as "yes" with its own probability, so unsure answers tell less. For answers of 0 and 1 this is
    the mutual information of answer and class (scikit-learn's `mutual_info_score` over ln 2).

    Args:
        means: mean p(yes) of every class, [C, Q]; nan where a class has no answer.
        counts: answers behind them, [C, Q].
    """
    total = np.maximum(counts.sum(axis=0), 1)
    known = np.nan_to_num(means)
    of_all = (known * counts).sum(axis=0) / total
    within = (entropy(known) * counts).sum(axis=0) / total
    bits: Floats = np.maximum(entropy(of_all) - within, 0)
    return bits


def chance_bits(counts: Ids) -> Floats:
    """Bits that answers without any relation to the class would seem to tell, float64 [Q].

    (K - 1) / (2 N ln 2) for K classes and N answers of yes or no (Miller 1955): few images a class look like
    knowledge.
    """
    classes = (counts > 0).sum(axis=0)
    bits: Floats = np.maximum(classes - 1, 0) / (2 * np.maximum(counts.sum(axis=0), 1) * np.log(2))
    return bits


def entropy(p: Floats) -> Floats:
    """Bits of a yes or no of probability p, any shape."""
    inside = np.clip(p, 1e-300, 1 - 1e-16)
    bits: Floats = -(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside))
    certain = (p <= 0) | (p >= 1)
    bits[certain] = 0
    return bits
