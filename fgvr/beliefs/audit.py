"""How many photos a person must look at to tell which of two methods is better: only those on which they differ.

Photos on which both say the same cannot tell them apart, so they need not be looked at: for the same decision that is
3 to 20 times cheaper. Of a photo on which they differ the first is right with probability p, the second with r, and
neither with 1 − p − r. After n looks the first was right m₁ times and the second m₂ times, and the two-sided 95% sign
test decides by X ~ Binomial(m₁ + m₂, ½). The size of the audit is the n from which the test finds the better one with
a probability of at least .8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fgvr.arrays import Ids, Labels

ERROR = 0.05
POWER = 0.8
FEWEST, MOST = 15, 120
"""Photos from and up to which an audit is proposed: fewer can hardly decide, and more than this is no longer cheap."""


def sign_test(first: int, second: int) -> float:
    """Two-sided p of the exact sign test: `first` and `second` are how often one was right and the other was not.

    Raises:
        ValueError: a negative count.
    """
    from scipy.stats import binom

    if first < 0 or second < 0:
        raise ValueError(f"{first} and {second} photos: counts cannot be negative")
    return float(min(1.0, 2.0 * binom.cdf(min(first, second), first + second, 0.5)))


def power(first_right: float, second_right: float, photos: int) -> float:
    """Probability that the test decides for the one that is right more often.

    Args:
        first_right: p, of a photo on which the two differ.
        second_right: r.
        photos: n.

    Raises:
        ValueError: probabilities that are negative or sum to more than 1.
    """
    from scipy.stats import binom

    either = first_right + second_right
    if min(first_right, second_right) < 0 or either > 1 + 1e-9:
        raise ValueError(f"right with probabilities {first_right:g} and {second_right:g}: they exclude each other")
    if first_right == second_right:
        return 0.0
    decisive = np.arange(photos + 1)
    # The better one wins if the other was right at most `bound` times of m.
    bound = _bounds(photos)
    weaker = min(first_right, second_right) / either
    wins = np.where(bound >= 0, binom.cdf(bound, decisive, weaker), 0.0)
    return float((binom.pmf(decisive, photos, min(1.0, either)) * wins).sum())


def _bounds(photos: int) -> Ids:
    """For m = 0 … n photos: the largest number of wins of the loser with which the test decides; −1: it never does."""
    from scipy.stats import binom

    decisive = np.arange(photos + 1)
    bound = binom.ppf(ERROR / 2, decisive, 0.5)
    bound = np.where(binom.cdf(bound, decisive, 0.5) > ERROR / 2, bound - 1, bound)
    return np.asarray(np.where(decisive == 0, -1, bound), dtype=np.int64)


def audit_size(first_right: float, second_right: float) -> int | None:
    """The smallest n, at least `FEWEST`, from which on the power is `POWER`; None if `MOST` photos do not have it.

    Since counts are whole, the power is a saw tooth: n is where it has reached .8 for good.

    Args:
        first_right: p, the share of the photos on which the two differ where the first is right.
        second_right: r, where the second is right.
    """
    enough = None
    for photos in range(MOST, FEWEST - 1, -1):
        if power(first_right, second_right, photos) < POWER:
            break
        enough = photos
    return enough


@dataclass(frozen=True)
class Outcome:
    """What an audit says.

    Attributes:
        first: photos on which the first was right.
        second: photos on which the second was right.
        neither: photos on which neither was.
        p: of the two-sided sign test.
    """

    first: int
    second: int
    neither: int
    p: float

    @property
    def better(self) -> Literal["first", "second"] | None:
        """The better one at 95%; None: no difference was seen, so keep what is simpler."""
        if self.p > ERROR:
            return None
        return "first" if self.first > self.second else "second"


def outcome(first: Labels, second: Labels, truth: Labels) -> Outcome:
    """Judge the looked-at photos: what the two say and what a person says, int32 [n] each.

    Raises:
        ValueError: arrays of different lengths, or a photo on which the two say the same.
    """
    if not len(first) == len(second) == len(truth):
        raise ValueError(f"{len(first)} and {len(second)} names for {len(truth)} looked-at photos")
    if (first == second).any():
        raise ValueError("an audit of differences holds a photo on which both say the same")
    one, other = int((first == truth).sum()), int((second == truth).sum())
    return Outcome(one, other, len(truth) - one - other, sign_test(one, other))


def drawn(differ: Ids, photos: int | None, seed: int = 0) -> Ids:
    """The photos to look at, int64 ascending: a random sample of those on which the two differ, drawn beforehand.

    Args:
        differ: the photos on which they differ, int64 [n].
        photos: how many; all where there are fewer. None: none, since no sane number would decide.
        seed: of the draw.
    """
    if photos is None:
        return differ[:0]
    return np.sort(np.random.default_rng(seed).permutation(differ)[:photos])
