"""What the report says of a promised precision: how much is named at which precision and cost, and who decides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fgvr.arrays import Doubles
from fgvr.calibration.cascade import By
from fgvr.calibration.promise import Flags, thresholds
from fgvr.heads.calibration import calibration_error
from fgvr.review.audit import clopper_pearson

BINS = 10
"""Bins of the reliability picture, of equal width."""
FIRST_SHARE = 0.1
"""Share of the photos that the curve begins at."""
SIDE, MARGIN = 260, 40
"""Of both pictures, in SVG units: the square, and what axis labels need."""


@dataclass(frozen=True)
class CurvePoint:
    """A threshold.

    Attributes:
        threshold: names with at least this score are given.
        coverage: share of the photos that get a name, 0 … 1.
        kept: checked photos among them.
        precision: share of those that are right; None without any.
        low: lower end of the 95% interval of that share, of this point alone.
        high: upper end.
        usd_accepted: US$ for a million given names if nobody names the rest; None without prices.
        usd_photos: US$ for a million photos of which the MLLM names the rest; None without prices.
        promised: whether this is the threshold in use.
    """

    threshold: float
    coverage: float
    kept: int
    precision: float | None
    low: float
    high: float
    usd_accepted: float | None
    usd_photos: float | None
    promised: bool


@dataclass(frozen=True)
class Bin:
    """Checked photos with scores in a range: their mean score, the share that is right, and its 95% interval."""

    photos: int
    score: float
    right: float
    low: float
    high: float


@dataclass(frozen=True)
class PromiseFacts:
    """A promise and what it rests on.

    Attributes:
        target: precision that was asked for.
        confidence: with which it holds.
        checked: photos whose right name is known.
        ece: expected calibration error of the scores on them, 0 … 1.
        sentences: what is promised, or why nothing is.
        decided_by: photos by who decides about them.
        curve: thresholds, highest first.
        bins: of the reliability picture.
        usd_mllm: US$ for a million photos that the MLLM names; None without a price.
    """

    target: float
    confidence: float
    checked: int
    ece: float
    sentences: tuple[str, ...]
    decided_by: Mapping[str, int]
    curve: tuple[CurvePoint, ...]
    bins: tuple[Bin, ...]
    usd_mllm: float | None = None

    def as_json(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)

    @property
    def photos(self) -> int:
        """All photos."""
        return sum(self.decided_by.values())


@dataclass(frozen=True)
class Prices:
    """US$ for a million photos, preparation and training included; None where unknown."""

    student: float | None = None
    mllm: float | None = None


def curve_of(
    scores: Doubles, right: Flags, pool: Doubles, prices: Prices, promised: float | None
) -> tuple[CurvePoint, ...]:
    """Points at equal steps of the share of photos that get a name, and the threshold in use.

    Args:
        scores: of the checked photos, float64 [n].
        right: bool [n].
        pool: finite scores of the photos to be decided, float64 [P].
        prices: of the student and the MLLM.
        promised: the threshold in use; None: none.
    """
    if not len(pool) or not len(scores):
        return ()
    places = dict(thresholds(pool, FIRST_SHARE))
    if promised is not None:
        places[promised] = float((pool >= promised).mean())
    found = []
    for threshold, coverage in sorted(places.items(), reverse=True):
        above = scores >= threshold
        kept, hits = int(above.sum()), int((above & right).sum())
        low, high = clopper_pearson(hits, kept)
        accepted = None if prices.student is None or not coverage else prices.student / coverage
        both = None if None in {prices.student, prices.mllm} else _sum(prices, 1 - coverage)
        share = hits / kept if kept else None
        found.append(
            CurvePoint(
                *(threshold, coverage, kept, share, float(low), float(high)), accepted, both, threshold == promised
            )
        )
    return tuple(found)


def _sum(prices: Prices, rest: float) -> float:
    return (prices.student or 0.0) + rest * (prices.mllm or 0.0)


def bins_of(scores: Doubles, right: Flags) -> tuple[Bin, ...]:
    """The bins that hold checked photos, lowest scores first."""
    place = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    found = []
    for number in np.unique(place).tolist():
        mine = place == number
        hits, photos = int(right[mine].sum()), int(mine.sum())
        low, high = clopper_pearson(hits, photos)
        found.append(Bin(photos, float(scores[mine].mean()), hits / photos, float(low), float(high)))
    return tuple(found)


def promise_facts(
    *,
    scores: Doubles,
    right: Flags,
    pool: Doubles,
    name: Mapping[str, Any],
    sentences: Sequence[str],
    decided_by: Mapping[str, int],
    confidence: float,
    prices: Prices,
) -> PromiseFacts:
    """The facts of a run.

    Args:
        scores: of the checked photos, float64 [n].
        right: bool [n].
        pool: finite scores of the photos to be decided.
        name: the promise of the student's names, as `Promise.as_json` gave it.
        sentences: remarks of the tables.
        decided_by: counts of the table `decided`.
        confidence: of the promise.
        prices: of the student and the MLLM.
    """
    passed = [test["threshold"] for test in name["tests"] if test["passed"]]
    promised = passed[-1] if passed else None
    return PromiseFacts(
        target=float(name["target"]),
        confidence=confidence,
        checked=len(scores),
        ece=calibration_error(scores.astype(np.float32), right),
        sentences=tuple(sentences),
        decided_by={str(by): decided_by.get(str(by), 0) for by in By},  # metadata is kept in alphabetical order
        curve=curve_of(scores, right, pool, prices, promised),
        bins=bins_of(scores, right),
        usd_mllm=prices.mllm,
    )


# Drawings. Both squares have 0 … 1 on their axes, or the upper part of it.


@dataclass(frozen=True)
class Mark:
    """A dot with its interval, in SVG units, and what it says."""

    x: float
    y: float
    low: float
    high: float
    words: str
    strong: bool = False


@dataclass(frozen=True)
class Square:
    """A picture: its marks, a line to compare with, and the ticks of both axes as (place, text)."""

    marks: list[Mark]
    line: tuple[float, float, float, float]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def curve_drawing(facts: PromiseFacts) -> Square:
    """Precision against coverage; the line is the target."""
    shown = [point for point in facts.curve if point.precision is not None]
    bottom = min([facts.target, *(point.low for point in shown)], default=0.0)
    bottom = math.floor(10 * bottom) / 10

    def y_of(value: float) -> float:
        return MARGIN / 4 + SIDE * (1 - (value - bottom) / (1 - bottom))

    marks = [
        Mark(
            MARGIN + SIDE * point.coverage,
            y_of(point.precision or 0.0),
            y_of(point.low),
            y_of(point.high),
            f"{point.coverage:.0%} of the photos named, {point.precision or 0:.1%} of {point.kept} checked ones right "
            f"({point.low:.1%} to {point.high:.1%})",
            point.promised,
        )
        for point in shown
    ]
    step = 0.1 if bottom < 0.75 else 0.05
    levels = np.arange(bottom, 1 + step / 2, step if bottom > 0.35 else 0.2)
    at = y_of(facts.target)
    shares = [(MARGIN + SIDE * share, f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)]
    return Square(
        marks, (MARGIN, at, MARGIN + SIDE, at), shares, [(y_of(level), f"{level:.0%}") for level in levels.tolist()]
    )


def reliability_drawing(facts: PromiseFacts) -> Square:
    """Share right against mean score; on the line the scores mean what they say."""

    def y_of(value: float) -> float:
        return MARGIN / 4 + SIDE * (1 - value)

    marks = [
        Mark(
            MARGIN + SIDE * each.score,
            y_of(each.right),
            y_of(each.low),
            y_of(each.high),
            f"{each.photos} photos with a mean score of {each.score:.2f}: {each.right:.0%} right",
        )
        for each in facts.bins
    ]
    steps = (0, 0.25, 0.5, 0.75, 1)
    return Square(
        marks,
        (MARGIN, y_of(0), MARGIN + SIDE, y_of(1)),
        [(MARGIN + SIDE * step, f"{step:g}") for step in steps],
        [(y_of(step), f"{step:.0%}") for step in steps],
    )


def drawings(facts: PromiseFacts) -> list[tuple[str, str, str, str, Square]]:
    """Both pictures: title, what it shows, the words of its axes, marks."""
    return [
        (
            "Coverage and precision",
            "Each dot is a threshold: how many photos get a name, and how many checked names are right, with its 95% "
            "interval. The dashed line is what was asked for; the large dot is in use.",
            "photos that get a name",
            "right",
            curve_drawing(facts),
        ),
        (
            "Reliability",
            "Of checked photos with about the same score, how many are right, with its 95% interval. On the dashed "
            f"line a score is a probability; the expected calibration error is {100 * facts.ece:.1f} points.",
            "score",
            "right",
            reliability_drawing(facts),
        ),
    ]
