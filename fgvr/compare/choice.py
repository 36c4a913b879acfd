"""Which backbone a budget allows: the best one, unless a cheaper one cannot be told from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Hits = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """A backbone whose trainings all went well.

    Attributes:
        model: its name.
        hits: whether each of S trainings names each of N photos rightly, 0 or 1: float64 [S, N]; the same photos for
            all candidates.
        ms: milliseconds per photo in large batches, the median over trainings.
        params: number of weights.
        gmacs: billions of multiply-adds per photo.
    """

    model: str
    hits: Hits
    ms: float
    params: float
    gmacs: float

    @property
    def top1(self) -> float:
        """Top-1 in percent, the mean over trainings."""
        return float(100 * self.hits.mean())


@dataclass(frozen=True)
class Budget:
    """What a backbone may cost at most; None: anything."""

    ms: float | None = None
    params: int | None = None
    gmacs: float | None = None

    @property
    def unit(self) -> str:
        """The field by which candidates are called cheap: the first one that is limited, else the time."""
        return next((name for name in ("ms", "gmacs", "params") if getattr(self, name) is not None), "ms")

    def exceeded(self, candidate: Candidate) -> list[str]:
        """What of a candidate is above the budget, in words."""
        return [
            in_words(name, getattr(candidate, name))
            for name in ("ms", "params", "gmacs")
            if (most := getattr(self, name)) is not None and getattr(candidate, name) > most
        ]

    def stated(self) -> str:
        """The limits in words; "" without any."""
        limits = [(name, getattr(self, name)) for name in ("ms", "params", "gmacs")]
        words = [in_words(name, most) for name, most in limits if most is not None]
        return f"at most {' and '.join(words)}" if words else ""


@dataclass(frozen=True)
class Difference:
    """By how many points of top-1 one backbone is above another, with its 95% interval."""

    mean: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Choice:
    """What is recommended.

    Attributes:
        model: the recommended backbone; None where none is within the budget.
        best: the one with the highest top-1 within the budget.
        alike: those within the budget of which no difference from the best is shown, the best first.
        words: the recommendation as a text.
    """

    model: str | None
    best: str | None
    alike: tuple[str, ...]
    words: str


def difference(one: Candidate, other: Candidate) -> Difference:
    """Points of top-1 of one backbone above another's, over photos and trainings.

    The variance of the mean is the sum of two parts: that of the photos, from the paired difference of each photo
    (means over trainings), and that of training, from the means of the S trainings of each backbone. The interval is
    Student's t with Welch's degrees of freedom (Welch 1947). A bootstrap over two or three trainings would be too
    narrow. Of a single training only the first part is known.
    """
    paired = 100 * (one.hits.mean(axis=0) - other.hits.mean(axis=0))
    mean = float(paired.mean())
    parts = [(float(paired.var(ddof=1)) / len(paired), len(paired) - 1)] if len(paired) > 1 else []
    for hits in (one.hits, other.hits):
        runs = 100 * hits.mean(axis=1)
        if len(runs) > 1:
            parts.append((float(runs.var(ddof=1)) / len(runs), len(runs) - 1))
    variance = sum(part for part, _ in parts)
    if not parts:
        return Difference(mean, -100.0, 100.0)
    if variance == 0:
        return Difference(mean, mean, mean)
    freedom = variance**2 / sum(part**2 / count for part, count in parts)
    half = _quantile(freedom) * variance**0.5
    return Difference(mean, mean - half, mean + half)


def _quantile(freedom: float) -> float:
    """The upper 2.5% point of Student's t."""
    if freedom > 1e6:
        return NormalDist().inv_cdf(0.975)
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def choose(candidates: Sequence[Candidate], budget: Budget) -> Choice:
    """Recommend the cheapest of those that cannot be told from the best one within the budget.

    Args:
        candidates: at least one.
        budget: what is allowed.
    """
    within = sorted((each for each in candidates if not budget.exceeded(each)), key=lambda each: -each.top1)
    unit = budget.unit
    if not within:
        nearest = min(candidates, key=lambda each: float(getattr(each, unit)))
        return Choice(
            *(None, None, ()),
            f"No backbone is within the budget ({budget.stated()}). {nearest.model} needs the least: "
            f"{', '.join(budget.exceeded(nearest))}, with {nearest.top1:.1f}% top-1.",
        )
    best, *others = within
    gaps = [(each, difference(best, each)) for each in others]
    alike = [best, *(each for each, gap in gaps if not gap.shown)]
    chosen = min(alike, key=lambda each: (float(getattr(each, unit)), -each.top1))
    said = [_opening(len(within), len(candidates), budget), f"{best.model} has the highest top-1, {best.top1:.1f}%."]
    gap_of = {each.model: gap for each, gap in gaps}
    if chosen is not best:
        said.append(
            f"But {chosen.model} is not shown to be worse ({_below(gap_of[chosen.model])}), and costs "
            f"{in_words(unit, getattr(chosen, unit))} where {best.model} costs {in_words(unit, getattr(best, unit))}: "
            f"{chosen.model} is recommended. More seeds or test photos might tell them apart."
        )
    elif len(alike) > 1:
        names = ", ".join(f"{each.model} ({_below(gap_of[each.model])})" for each in alike[1:])
        said.append(f"It is recommended: what cannot be told from it costs no less: {names}.")
    elif others:
        said.append(f"It is recommended: the next one, {others[0].model}, is {_below(gaps[0][1])}.")
    else:
        said.append("It is recommended, for want of others.")
    further = [each.model for each in alike if each not in (best, chosen)]
    if chosen is not best and further:
        said.append(f"Nor can these be told from {best.model}: {', '.join(further)}.")
    if min(len(each.hits) for each in within) < 2:
        said.append("With one training each the intervals know nothing of the chance in training: raise compare.seeds.")
    words = " ".join(part for part in said if part)
    return Choice(chosen.model, best.model, tuple(each.model for each in alike), words)


def _opening(within: int, every: int, budget: Budget) -> str:
    limits = budget.stated()
    verb = "is" if within == 1 else "are"
    return f"Of {every} backbones {within} {verb} within the budget ({limits})." if limits else ""


def _below(gap: Difference) -> str:
    """How far below the best one something is."""
    return f"{gap.mean:.1f} points lower, 95% interval {gap.low:.1f} to {gap.high:.1f}"


def in_words(unit: str, value: float) -> str:
    """A cost with its unit."""
    match unit:
        case "ms":
            return f"{value:.3g} ms per photo"
        case "params":
            return f"{value / 1e6:.3g} M weights"
        case _:
            return f"{value:.3g} GMAC"
