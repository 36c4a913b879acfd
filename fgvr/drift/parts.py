"""Tests of parts of the photos against the reference, and which of them are alarms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from fgvr.arrays import Doubles
from fgvr.drift.reference import Reference
from fgvr.drift.two_sample import Found, holm, longer_tail, same_distribution, same_names

RULES = 1
"""Increase it when the same scores would give other tests."""


class Compared(StrEnum):
    """What is compared."""

    DISTANCE = "distance"
    FAR = "far"
    DOUBT = "doubt"
    NAMES = "names"

    @property
    def means(self) -> str:
        """What an alarm says, after "part 3: "."""
        return {
            Compared.DISTANCE: "photos lie elsewhere than training photos do",
            Compared.FAR: "more photos than in training are like none that was learned from",
            Compared.DOUBT: "the model is surer or less sure than in training",
            Compared.NAMES: "names have other shares than in training",
        }[self]


@dataclass(frozen=True)
class Part:
    """The scores of one part.

    Attributes:
        first: its smallest image id.
        last: its largest one.
        distance: float64 [n]; NaN without a vector.
        doubt: float64 [n]; NaN without a prediction.
        names: photos per predicted name.
    """

    first: int
    last: int
    distance: Doubles
    doubt: Doubles
    names: Mapping[str, int]


@dataclass(frozen=True)
class Judged:
    """One test of one part: a row of the table `drift`."""

    part: int
    first: int
    last: int
    photos: int
    test: Compared
    statistic: float
    p: float
    p_corrected: float
    alarm: bool


def results(part: Part, reference: Reference) -> dict[Compared, Found]:
    """All tests of one part, not corrected."""
    return {
        Compared.DISTANCE: same_distribution(part.distance, reference.distance),
        Compared.FAR: longer_tail(part.distance, reference.distance),
        Compared.DOUBT: same_distribution(part.doubt, reference.doubt),
        Compared.NAMES: same_names(part.names, reference.names),
    }


def judged(parts: Sequence[Part], reference: Reference, alpha: float) -> list[Judged]:
    """Every test of every part, corrected together (Holm): the probability of any false alarm is at most `alpha`."""
    found = [(number, part, test, one) for number, part in enumerate(parts) for test, one in _each(part, reference)]
    corrected = holm(np.array([one.p for *_, one in found], np.float64))
    return [
        Judged(
            number,
            part.first,
            part.last,
            len(part.distance),
            test,
            one.statistic,
            one.p,
            float(p),
            bool(p <= alpha),
        )
        for (number, part, test, one), p in zip(found, corrected, strict=True)
    ]


def _each(part: Part, reference: Reference) -> list[tuple[Compared, Found]]:
    return list(results(part, reference).items())
