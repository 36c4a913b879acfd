"""The recommendation: never by noise, never above the budget."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_rel

from fgvr.compare.choice import Budget, Candidate, choose, difference


def candidate(name: str, right: list[list[int]] | np.ndarray, ms: float = 1.0, **costs: float) -> Candidate:
    return Candidate(name, np.array(right, np.float64), ms, costs.get("params", 1e6), costs.get("gmacs", 1.0))


def drawn(name: str, share: float, ms: float, *, seeds: int = 3, photos: int = 400, seed: int = 0) -> Candidate:
    hits = np.random.default_rng(seed).random((seeds, photos)) < share
    return candidate(name, hits, ms)


def test_the_difference_of_one_training_each_is_a_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.random((1, 50)) < 0.7, rng.random((1, 50)) < 0.5
    found = difference(candidate("a", one), candidate("b", other))
    low, high = ttest_rel(one[0].astype(float), other[0].astype(float)).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((100 * low, 100 * high))


def test_the_chance_in_training_widens_the_interval() -> None:
    # Trainings of a: 100, 50, 0 percent: means differ by 50 points in sd; of b always 50: the photos alone differ less.
    a = candidate("a", [[1] * 100, [1] * 50 + [0] * 50, [0] * 100])
    b = candidate("b", [[1] * 50 + [0] * 50] * 3)
    found = difference(a, b)
    assert found.mean == pytest.approx(0, abs=1e-9)
    # sd of the three means 50, /√3 = 28.9; t of about two degrees of freedom 4.3: half width above 120 points.
    assert found.high > 100
    assert not found.shown


def test_one_photo_shows_nothing() -> None:
    assert not difference(candidate("a", [[1]]), candidate("b", [[0]])).shown


def test_a_clearly_better_backbone_is_recommended() -> None:
    found = choose([drawn("slow", 0.9, 8, seed=1), drawn("fast", 0.5, 1, seed=2)], Budget(ms=10))
    assert (found.model, found.best, found.alike) == ("slow", "slow", ("slow",))
    assert "the next one, fast" in found.words
    assert "at most 10 ms per photo" in found.words


def test_of_backbones_that_cannot_be_told_apart_the_cheapest_is_recommended() -> None:
    slow, fast = drawn("slow", 0.71, 8, seed=1), drawn("fast", 0.70, 4, seed=2)
    best = max(slow, fast, key=lambda each: each.top1)
    found = choose([slow, fast], Budget(ms=10))
    assert found.model == "fast"
    assert found.best == best.model
    assert set(found.alike) == {"slow", "fast"}
    assert "95% interval" in found.words


def test_null_backbones_never_make_the_dearest_one_win_by_much_more_than_chance() -> None:
    wins = 0
    for seed in range(200):
        dear, cheap = drawn("dear", 0.6, 8, seed=2 * seed), drawn("cheap", 0.6, 4, seed=2 * seed + 1)
        wins += choose([dear, cheap], Budget()).model == "dear"
    assert wins <= 12  # one side of 5%: 2.5% of 200 are 5


def test_a_backbone_above_the_budget_is_left_out() -> None:
    good, poor = drawn("good", 0.9, 20, seed=1), drawn("poor", 0.4, 5, seed=2)
    found = choose([good, poor], Budget(ms=10))
    assert found.model == "poor"
    assert "Of 2 backbones 1 is within the budget" in found.words
    nothing = choose([good, poor], Budget(ms=1))
    assert nothing.model is None
    assert "poor needs the least: 5 ms per photo" in nothing.words


def test_the_limited_cost_says_what_is_cheap() -> None:
    small = candidate("small", [[1, 0] * 50] * 2, ms=9, params=1e6, gmacs=2)
    quick = candidate("quick", [[1, 0] * 50] * 2, ms=1, params=5e6, gmacs=1)
    assert choose([small, quick], Budget()).model == "quick"
    assert choose([small, quick], Budget(params=10_000_000)).model == "small"
    assert choose([small, quick], Budget(gmacs=3)).model == "quick"


def test_one_training_is_said_to_know_nothing_of_chance() -> None:
    found = choose([drawn("a", 0.9, 1, seeds=1), drawn("b", 0.2, 2, seeds=1, seed=3)], Budget())
    assert "raise compare.seeds" in found.words
