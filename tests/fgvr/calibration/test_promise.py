"""The promised precision: numbers by hand, SciPy's exact interval, and how often a false promise is made."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from fgvr.calibration.promise import fewest_kept, first_test, lower_bound, promise, thresholds


def test_bound_without_an_error_is_the_root_of_the_error():
    # P(n of n right) = p^n = .05 at the bound.
    assert lower_bound(19, 19, 0.05) == pytest.approx(0.05 ** (1 / 19))
    assert lower_bound(0, 7, 0.05) == 0.0
    assert lower_bound(0, 0, 0.05) == 0.0


@pytest.mark.parametrize(
    ("right", "kept", "error"), [(37, 40, 0.05), (290, 300, 0.025), (1, 3, 0.1), (999, 1000, 0.01)]
)
def test_bound_is_that_of_scipy(right, kept, error):
    exact = binomtest(right, kept, alternative="greater").proportion_ci(1 - error, method="exact").low
    assert lower_bound(right, kept, error) == pytest.approx(exact)


@pytest.mark.parametrize(("right", "kept", "error"), [(4, 3, 0.05), (-1, 3, 0.05), (1, 3, 0.0), (1, 3, 1.0)])
def test_bound_refuses_what_cannot_be(right, kept, error):
    with pytest.raises(ValueError, match="photos at an error"):
        lower_bound(right, kept, error)


def test_fewest_photos_by_hand():
    # .85^18 = .0536 > .05 >= .85^19 = .0456; .95^58 = .0510 > .05 >= .95^59 = .0485.
    assert fewest_kept(0.85, 0.05, wrong=0) == 19
    assert fewest_kept(0.95, 0.05, wrong=0) == 59
    # Two wrong of 40: .85^40 + 40 * .15 * .85^39 + 780 * .15^2 * .85^38 = .0486; of 39 it is .0547.
    tail = [math.comb(40, k) * 0.15**k * 0.85 ** (40 - k) for k in range(3)]
    assert sum(tail) == pytest.approx(0.0486, abs=1e-4)
    assert fewest_kept(0.85, 0.05, wrong=2) == 40
    for wrong in (0, 1, 2, 9):
        least = fewest_kept(0.9, 0.05, wrong=wrong)
        assert lower_bound(least - wrong, least, 0.05) >= 0.9 > lower_bound(least - 1 - wrong, least - 1, 0.05)


@pytest.mark.parametrize("target", [0.0, 1.0, float("nan")])
def test_no_sample_proves_certainty(target):
    with pytest.raises(ValueError, match="between 0 and 1"):
        fewest_kept(target, 0.05, wrong=0)


def test_first_test_leaves_room_for_errors_where_there_are_photos():
    assert first_test(300, 0.85, 0.05) == 40
    assert first_test(35, 0.85, 0.05) == 30  # one wrong
    assert first_test(20, 0.85, 0.05) == 19  # none
    assert first_test(18, 0.85, 0.05) is None


def test_thresholds_are_quantiles_and_ties_stay_together():
    found = thresholds(np.arange(1.0, 101.0), 0.1)
    assert found[0] == (91.0, 0.1)
    assert found[-1] == (1.0, 1.0)
    assert len(found) == 15
    assert [share for _, share in found] == sorted(share for _, share in found)
    # 30 photos of score .9 cannot be told apart: the first threshold keeps all of them.
    assert thresholds(np.repeat([0.9, 0.5], [30, 70]), 0.1) == [(0.9, 0.3), (0.5, 1.0)]
    assert thresholds(np.full(50, 0.7), 0.1) == [(0.7, 1.0)]


def test_sequence_ends_at_the_first_failure():
    # Scores 300 … 1; the best 150 are right, the others wrong.
    scores = np.arange(300.0, 0.0, -1.0)
    found = promise(scores, scores > 150, scores, target=0.85, error=0.05)
    assert found.tests[0].kept == 40
    assert found.tests[0].bound == pytest.approx(0.05 ** (1 / 40))
    assert [each.passed for each in found.tests] == [True] * (len(found.tests) - 1) + [False]
    last = found.tests[-1]
    assert (last.right, last.bound < 0.85) == (150, True)
    assert found.chosen == found.tests[-2]
    assert found.threshold == found.tests[-2].threshold
    assert "lower bound" in found.sentence()


def test_a_later_threshold_is_not_used_behind_a_failure():
    # The surest 40 are wrong: what comes below would pass on its own, and still nothing is promised.
    scores = np.arange(2000.0, 0.0, -1.0)
    found = promise(scores, scores <= 1960, scores, target=0.85, error=0.05)
    assert (len(found.tests), found.chosen) == (1, None)
    assert found.needed is not None
    assert found.needed > 2000


def test_refuses_too_few_photos_and_says_how_many():
    found = promise(np.linspace(0.5, 1, 18), np.ones(18, bool), np.linspace(0, 1, 999), target=0.85, error=0.05)
    assert (found.tests, found.threshold) == ((), None)
    assert found.sentence().endswith("18 checked photos, and even without an error it takes 19; check at least 1 more")
    nothing = promise(np.zeros(0), np.zeros(0, bool), np.linspace(0, 1, 9), target=0.95, error=0.05)
    assert nothing.sentence().endswith("check at least 59")


def test_says_how_many_photos_would_do():
    # 90% are right at every score: one bound of .85 needs more than 100 photos.
    rng = np.random.default_rng(0)
    scores, right = rng.random(100), np.arange(100) % 10 > 0
    found = promise(scores, right, rng.random(5000), target=0.85, error=0.05)
    assert found.threshold is None
    assert found.needed is not None
    assert 100 < found.needed < 2000
    assert f"about {found.needed - 100:,} more checked photos" in found.sentence()


def test_says_that_photos_do_not_help_where_too_few_are_right():
    scores = np.linspace(0, 1, 300)
    found = promise(scores, np.arange(300) % 2 == 0, scores, target=0.85, error=0.05)
    assert found.needed is None
    assert "not more photos" in found.sentence()


def test_scores_that_are_no_numbers_are_never_kept():
    scores = np.concatenate([np.linspace(0.5, 1, 100), [np.nan, np.inf]])
    right = np.concatenate([np.ones(100, bool), [False, False]])
    found = promise(scores, right, np.concatenate([scores, [np.nan]]), target=0.85, error=0.05)
    assert found.threshold == pytest.approx(0.5)
    assert found.tests[-1].kept == 100
    assert promise(scores, right, np.full(3, np.nan), target=0.85, error=0.05).threshold is None


def test_refuses_arrays_of_different_lengths():
    with pytest.raises(ValueError, match="3 scores for 2"):
        promise(np.zeros(3), np.zeros(2, bool), np.zeros(3), target=0.9, error=0.05)


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_false_promises_are_as_rare_as_stated(slope):
    """The precision is just below the target at the top, or falls below it somewhere: at most 5% false promises."""
    rng = np.random.default_rng(7)
    pool = rng.random(4_000)
    chance = np.clip(0.849 + slope * (pool - 0.7), 0, 1)
    false = 0
    for _ in range(500):
        rows = rng.choice(len(pool), 300, replace=False)
        right = rng.random(300) < chance[rows]
        threshold = promise(pool[rows], right, pool, target=0.85, error=0.05).threshold
        false += threshold is not None and chance[pool >= threshold].mean() < 0.85
    # 5% plus two standard errors of 500 draws.
    assert false / 500 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 500)


def test_ten_million_scores_of_two_values():
    pool = np.ones(10_000_000)
    pool[::3] = 0.5
    scores, right = np.repeat([1.0, 0.5], [200, 100]), np.repeat([True, False], [200, 100])
    found = promise(scores, right, pool, target=0.95, error=0.05)
    assert found.threshold == 1.0
