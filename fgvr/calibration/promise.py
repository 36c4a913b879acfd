"""From which score on predictions are right in at least a promised share of cases, shown with a stated confidence.

Of n photos somebody knows whether the prediction is right; the photos to be decided are the *pool*. Thresholds are
tested one after the other, from the highest score down: with m of the n photos kept and k of them right, a threshold
passes if the one-sided Clopper–Pearson bound of k / m reaches the target. The first that fails ends the sequence, and
the last that passed is used. This is fixed-sequence testing as in Angelopoulos et al., "Learn then Test" (Annals of
Applied Statistics 2025, arXiv 2110.01052): every test may err with the whole error, and the chance that the chosen
threshold keeps its promise on the pool is still at least 1 − error.

That holds only because the sequence is fixed before anybody looks at a right or a wrong: thresholds are quantiles of
the pool's own scores, and the first one keeps so large a share that about `first_test` of the n photos are expected
above it. With fewer kept than `fewest_kept(…, wrong=0)` even a sample without an error proves nothing, and a sequence
that begins there stops at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fgvr.arrays import Doubles

STEPS: Final = 15
"""Thresholds that are tested at most, at equal steps of the share that is kept."""
SPARE: Final = 2
"""Wrong photos with which the first test can still pass, if there are enough photos for that."""
MOST_ROWS: Final = 10_000_000
"""Where no number of photos up to this one would be enough, none is named."""

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Test:
    """One threshold.

    Attributes:
        threshold: predictions with at least this score are kept.
        share: of the pool that is kept, 0 … 1.
        kept: calibration photos that are kept.
        right: those of them whose prediction is right.
        bound: lower end of the one-sided interval of the precision.
        passed: whether the bound reaches the target.
    """

    __test__ = False  # no test case, whatever pytest makes of its name

    threshold: float
    share: float
    kept: int
    right: int
    bound: float
    passed: bool


@dataclass(frozen=True)
class Promise:
    """What the calibration photos show.

    Attributes:
        target: precision that was asked for.
        error: chance of a false promise that was allowed.
        rows: calibration photos.
        tests: in the order of testing, the failed one included.
        needed: calibration photos with which a promise is likely, if they are right as often as these ones; None where
            a promise is made, or where no number would be enough.
    """

    target: float
    error: float
    rows: int
    tests: tuple[Test, ...]
    needed: int | None = None

    @property
    def chosen(self) -> Test | None:
        """The last test that passed; None: nothing is promised."""
        return next((each for each in reversed(self.tests) if each.passed), None)

    @property
    def threshold(self) -> float | None:
        """From which score on the promise holds; None: from none."""
        return None if self.chosen is None else self.chosen.threshold

    def as_json(self) -> dict[str, Any]:
        """For the metadata of tables."""
        return asdict(self) | {"tests": [asdict(each) for each in self.tests], "sentence": self.sentence()}

    @classmethod
    def of_json(cls, facts: Mapping[str, Any]) -> Promise:
        """What `as_json` gave."""
        kept = {name: value for name, value in facts.items() if name not in {"tests", "sentence"}}
        return cls(**kept, tests=tuple(Test(**each) for each in facts["tests"]))

    def sentence(self) -> str:
        """What is promised, or why nothing is and what would help."""
        asked = f"a precision of {self.target:.1%} at {1 - self.error:.1%} confidence"
        if self.chosen is not None:
            one = self.chosen
            return (
                f"{asked} holds from score {one.threshold:.4g} on, which keeps {one.share:.1%} of the photos "
                f"({one.right} of {one.kept} kept photos are right, lower bound {one.bound:.1%})"
            )
        least = fewest_kept(self.target, self.error, wrong=0)
        if not self.tests:
            more = f"at least {least - self.rows:,} more" if self.rows else f"at least {least:,}"
            return (
                f"{asked} cannot be promised: {self.rows:,} checked photos, and even without an error it takes "
                f"{least:,}; check {more}"
            )
        first = self.tests[0]
        share = f"{first.right / first.kept:.1%}" if first.kept else "none"
        seen = f"{first.right} of the {first.kept} surest checked photos are right ({share}, bound {first.bound:.1%})"
        if self.needed is None:
            return (
                f"{asked} cannot be promised: {seen}; only a lower target or a better model would help, not more photos"
            )
        return (
            f"{asked} cannot be promised: {seen}; it would take about {self.needed - self.rows:,} more checked photos, "
            "if these are typical"
        )


def lower_bound(right: int, kept: int, error: float) -> float:
    """Clopper–Pearson's one-sided lower bound of a share: it is above the true one with probability ≤ `error`.

    0 for no photos or none right.

    Raises:
        ValueError: counts that are negative or contradict each other, or an error outside 0 … 1.
    """
    from scipy.special import betaincinv

    if not 0 <= right <= kept or not 0 < error < 1:
        raise ValueError(f"{right} right of {kept} photos at an error of {error:g}")
    return float(betaincinv(right, kept - right + 1, error)) if right else 0.0


@cache
def fewest_kept(target: float, error: float, *, wrong: int) -> int:
    """The smallest number of photos, `wrong` of them wrong, whose lower bound reaches the target.

    Without a wrong one this is ln(error) / ln(target), rounded up: 19 for .85 and 59 for .95 at an error of .05.

    Raises:
        ValueError: a target or an error that is not between 0 and 1.
    """
    from scipy.stats import binom

    if not 0 < target < 1 or not 0 < error < 1:
        raise ValueError(f"a target of {target:g} at an error of {error:g}: both lie between 0 and 1")

    def proves(photos: int) -> bool:
        return bool(binom.cdf(wrong, photos, 1 - target) <= error * (1 + 1e-12))

    few, enough = wrong, wrong + 1
    while not proves(enough):
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if proves(middle) else (middle, enough)
    return enough


def first_test(rows: int, target: float, error: float) -> int | None:
    """How many of `rows` photos should be kept at the first threshold; None: too few to prove anything.

    The most wrong ones, up to `SPARE`, with which they still could pass. It depends on nothing that was looked at.
    """
    for wrong in range(SPARE, -1, -1):
        kept = fewest_kept(target, error, wrong=wrong)
        if kept <= rows:
            return kept
    return None


def thresholds(pool: Doubles, first: float) -> list[tuple[float, float]]:
    """The sequence, highest score first, as pairs of a threshold and the share of the pool with at least this score.

    Equal scores are kept or left together, so that a pool of few different scores has few thresholds.

    Args:
        pool: finite scores of the photos to be decided, [P].
        first: share that the first threshold keeps, 0 … 1.
    """
    falling = -np.sort(-pool)
    shares = np.linspace(first, 1.0, STEPS)
    places = np.clip(np.ceil(shares * len(falling) - 1e-9).astype(np.int64) - 1, 0, len(falling) - 1)
    chosen = np.unique(falling[places])[::-1]
    kept = np.searchsorted(-falling, -chosen, side="right")
    return [(float(score), float(count / len(falling))) for score, count in zip(chosen, kept, strict=True)]


def promise(scores: Doubles, right: Flags, pool: Doubles, *, target: float, error: float) -> Promise:
    """Find the threshold from which a precision can be promised.

    Args:
        scores: of the calibration photos, a random sample of the pool (or of photos like these), float64 [n]; a score
            that is not finite is never kept.
        right: whether the prediction of each is right, bool [n].
        pool: scores of the photos to be decided, float64 [P]; those that are not finite are left out.
        target: precision to promise, between 0 and 1.
        error: allowed chance of a false promise, between 0 and 1.

    Raises:
        ValueError: arrays of different lengths, or a target or an error outside 0 … 1.
    """
    scores, right, pool = np.asarray(scores, np.float64), np.asarray(right, bool), np.asarray(pool, np.float64)
    if len(scores) != len(right):
        raise ValueError(f"{len(scores)} scores for {len(right)} calibration photos")
    pool = pool[np.isfinite(pool)]
    rows = len(scores)
    first = first_test(rows, target, error)
    if first is None or not len(pool):
        return Promise(target, error, rows, ())
    usable = np.where(np.isfinite(scores), scores, -np.inf)
    sequence = thresholds(pool, first / rows)
    tests: list[Test] = []
    for threshold, share in sequence:
        tests.append(_tested(usable, right, threshold, share, target=target, error=error))
        if not tests[-1].passed:
            break
    found = Promise(target, error, rows, tuple(tests))
    if found.chosen is not None:
        return found
    everything = [_tested(usable, right, *each, target=target, error=error) for each in sequence]
    return Promise(target, error, rows, tuple(tests), _needed(everything, rows, target, error))


def _tested(scores: Doubles, right: Flags, threshold: float, share: float, *, target: float, error: float) -> Test:
    above = scores >= threshold
    kept, hits = int(above.sum()), int((above & right).sum())
    bound = lower_bound(hits, kept, error)
    return Test(threshold, share, kept, hits, bound, bound >= target)


def _needed(tests: list[Test], rows: int, target: float, error: float) -> int | None:
    """The fewest photos with which one of the thresholds would pass if it kept its share of right ones."""
    found: list[int] = []
    for test in tests:
        if not test.kept or test.right / test.kept <= target:
            continue
        wrong_share = 1 - test.right / test.kept
        low, high = 0, fewest_kept(target, error, wrong=0)

        def passes(kept: int, wrong_share: float = wrong_share) -> bool:
            wrong = math.ceil(wrong_share * kept - 1e-9)
            return kept > wrong and lower_bound(kept - wrong, kept, error) >= target

        while not passes(high) and high < MOST_ROWS:
            low, high = high, 2 * high
        if not passes(high):
            continue
        while high - low > 1:  # a saw tooth, as wrong ones are whole: close enough for "about"
            middle = (low + high) // 2
            low, high = (low, middle) if passes(middle) else (middle, high)
        found.append(math.ceil(high / test.share))
    if not found:
        return None
    return min(found) if min(found) > rows else 2 * rows  # a later threshold would pass: the first one needs more luck
