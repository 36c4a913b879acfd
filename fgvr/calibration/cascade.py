"""Who names a photo: the student, a kind above its name, a second look of the MLLM, a person, or nobody.

Each step has a threshold of its own, and keeps the promised precision among the photos that it decides, so that all of
them together do, too. The allowed error is divided among the steps. A later step sees what an earlier threshold left;
since that threshold was chosen by the same checked photos, the later step must hold whichever it was, and its error is
divided by the number of thresholds that there could have been (a union bound, which costs little: the photos that are
needed grow with the logarithm of the error).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from fgvr.arrays import Doubles, Ids
from fgvr.calibration.promise import STEPS, Flags, Promise, promise

RULES: Final = 1
"""Increase it when the same checked photos would give other thresholds, or the same thresholds other names."""
OUTCOMES: Final = STEPS + 1
"""Thresholds that a step may end with, none included."""


class By(StrEnum):
    """Who decides about a photo."""

    STUDENT = "student"
    TREE = "tree"
    MLLM = "mllm"
    QUEUE = "queue"
    NONE = "none"


class Why(StrEnum):
    """Why it is decided so."""

    SURE = "score_above_threshold"
    SURE_OF_KIND = "kind_above_threshold"
    SURE_CHOICE = "choice_above_threshold"
    UNSURE = "score_below_threshold"
    UNSURE_CHOICE = "choice_below_threshold"
    UNPROVEN = "nothing_promised"
    LEARNED = "learned_from"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Scores:
    """How sure the student is of n photos.

    Attributes:
        name: of the name, float64 [n]; NaN where there is none.
        kind: of the kind above it, float64 [n]; NaN where there is none.
    """

    name: Doubles
    kind: Doubles

    def of(self, rows: Ids | Flags) -> Scores:
        """Some of them."""
        return Scores(self.name[rows], self.kind[rows])


@dataclass(frozen=True)
class Checked:
    """Calibration photos: how sure the student is, and whether it is right.

    Attributes:
        scores: of n photos.
        name_right: bool [n].
        kind_right: bool [n].
    """

    scores: Scores
    name_right: Flags
    kind_right: Flags


@dataclass(frozen=True)
class Thresholds:
    """What the calibration photos show of the student's own steps.

    Attributes:
        name: of its names.
        kind: of the kinds above the names that are not sure; None without a tree.
        asking: error that is left to the MLLM's step; None where it is not asked.
    """

    name: Promise
    kind: Promise | None
    asking: float | None

    def by_student(self, scores: Scores) -> Flags:
        """Photos whose name is sure enough, bool [n]."""
        return _from(scores.name, self.name.threshold)

    def by_kind(self, scores: Scores) -> Flags:
        """Photos whose name is not, but the kind above it, bool [n]."""
        threshold = None if self.kind is None else self.kind.threshold
        return ~self.by_student(scores) & _from(scores.kind, threshold)

    def left(self, scores: Scores) -> Flags:
        """Photos that neither decides, bool [n]."""
        return ~self.by_student(scores) & ~self.by_kind(scores)


def _from(scores: Doubles, threshold: float | None) -> Flags:
    if threshold is None:
        return np.zeros(len(scores), bool)
    with np.errstate(invalid="ignore"):
        found: Flags = scores >= threshold
    return found


def find_thresholds(
    checked: Checked, pool: Scores, *, target: float, error: float, kinds: bool, asking: bool
) -> Thresholds:
    """The thresholds of the student's names and of the kinds above them.

    Args:
        checked: the calibration photos.
        pool: scores of the photos to be decided.
        target: promised precision.
        error: allowed chance that any step breaks its promise.
        kinds: whether there is a tree.
        asking: whether the MLLM is asked about what is left.
    """
    each = error / (1 + kinds + asking)
    name = promise(checked.scores.name, checked.name_right, pool.name, target=target, error=each)
    first = Thresholds(name, None, None)
    kind = None
    if kinds:
        rows, others = ~first.by_student(checked.scores), ~first.by_student(pool)
        kind = promise(
            checked.scores.kind[rows],
            checked.kind_right[rows],
            pool.kind[others],
            target=target,
            error=each / OUTCOMES,
        )
    return Thresholds(name, kind, each / (OUTCOMES**2 if kinds else OUTCOMES) if asking else None)


@dataclass(frozen=True)
class Choice:
    """What the MLLM chose of m photos that it was asked about.

    Attributes:
        rows: their places among the n photos, int64 [m].
        scores: share of the chosen name among the compared ones, float64 [m]; NaN where it did not answer.
    """

    rows: Ids
    scores: Doubles


@dataclass(frozen=True)
class Outcome:
    """Who decides about each of n photos.

    Attributes:
        by: places in `BY`, int8 [n].
        why: places in `WHY`, int8 [n].
    """

    by: np.ndarray
    why: np.ndarray

    def counts(self) -> dict[str, int]:
        """Photos by who decides, all of `By`."""
        number = np.bincount(self.by, minlength=len(BY))
        return {str(by): int(count) for by, count in zip(BY, number, strict=True)}


BY: Final = tuple(By)
WHY: Final = tuple(Why)


def decide(
    thresholds: Thresholds,
    scores: Scores,
    *,
    learned: Flags,
    queue: int,
    choice: Choice | None = None,
    chosen: Promise | None = None,
) -> Outcome:
    """Who decides about each photo.

    Args:
        thresholds: of the student's steps.
        scores: of n photos.
        learned: photos that the student learned from, bool [n]: nothing was promised of them.
        queue: most photos for people, the surest first; among equals the earlier one.
        choice: what the MLLM said; None: it was not asked.
        chosen: what is promised of it.
    """
    unreadable = ~np.isfinite(scores.name)
    open_ = ~unreadable & ~learned
    by = np.full(len(scores.name), BY.index(By.NONE), np.int8)
    none_yet = thresholds.name.threshold is None and (thresholds.kind is None or thresholds.kind.threshold is None)
    why = np.full(len(by), WHY.index(Why.UNPROVEN if none_yet else Why.UNSURE), np.int8)
    why[learned] = WHY.index(Why.LEARNED)
    why[unreadable] = WHY.index(Why.UNREADABLE)

    def give(rows: Flags, who: By, reason: Why) -> None:
        by[rows], why[rows] = BY.index(who), WHY.index(reason)

    give(open_ & thresholds.by_student(scores), By.STUDENT, Why.SURE)
    give(open_ & thresholds.by_kind(scores), By.TREE, Why.SURE_OF_KIND)
    if choice is not None:
        asked = np.zeros(len(by), bool)
        asked[choice.rows] = True
        why[asked & open_ & (by == BY.index(By.NONE))] = WHY.index(Why.UNSURE_CHOICE)
        sure = np.zeros(len(by), bool)
        sure[choice.rows] = _from(choice.scores, None if chosen is None else chosen.threshold)
        give(sure & open_ & thresholds.left(scores), By.MLLM, Why.SURE_CHOICE)
    waiting = np.flatnonzero(open_ & (by == BY.index(By.NONE)))
    surest = waiting[np.argsort(-scores.name[waiting], kind="stable")][:queue]
    by[surest] = BY.index(By.QUEUE)
    return Outcome(by, why)
