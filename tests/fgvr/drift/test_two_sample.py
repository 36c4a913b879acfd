"""Tests against SciPy, numbers worked by hand, and simulations in which nothing has changed."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chi2_contingency, ks_2samp

from fgvr.drift.two_sample import finite, holm, longer_tail, same_distribution, same_names


def test_kolmogorov_by_hand() -> None:
    # 1, 2 against 3, 4: the CDFs are 1 apart, which 2 of the 6 orders of four values show.
    found = same_distribution(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    assert (found.statistic, found.p) == (1.0, pytest.approx(2 / 6))


def test_kolmogorov_of_many_photos_is_as_in_scipy() -> None:
    random = np.random.default_rng(0)
    new, reference = random.normal(0.2, 1, 1500), random.normal(0, 1, 900)
    expected = ks_2samp(new, reference, method="exact")
    found = same_distribution(new, reference)
    assert found.statistic == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue, rel=0.1)


def test_longer_tail_counts_all_orders() -> None:
    # Two of three new values lie beyond the largest of four: count the orders of seven values that show at least that.
    reference, new = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 5.0, 6.0])
    orders = list(combinations(range(7), 3))  # places of the new values
    as_many = sum(sum(place > max(set(range(7)) - set(own)) for place in own) >= 2 for own in orders)
    found = longer_tail(new, reference, tail=0.25)
    assert found.statistic == pytest.approx(2 / 3)
    assert found.p == pytest.approx(as_many / len(orders))


@pytest.mark.parametrize(("above", "tail"), [(1, 0.1), (4, 0.3), (7, 0.5)])
def test_longer_tail_agrees_with_simulation(above: int, tail: float) -> None:
    random = np.random.default_rng(1)
    n, m = 12, 20
    reference = np.arange(m, dtype=float)
    new = np.concatenate([np.full(above, m + 1.0), np.full(n - above, -1.0)])
    found = longer_tail(new, reference, tail)
    beyond = int(tail * m)
    values = random.random((40_000, n + m))
    threshold = np.sort(values[:, :m], axis=1)[:, m - beyond]
    simulated = ((values[:, m:] > threshold[:, None]).sum(axis=1) >= above).mean()
    assert found.p == pytest.approx(simulated, abs=0.01)


def test_names_are_as_in_scipy_where_all_are_frequent() -> None:
    new, reference = {"a": 40, "b": 60, "c": 30}, {"a": 200, "b": 150, "c": 90}
    expected = chi2_contingency(np.array([[40, 60, 30], [200, 150, 90]]), correction=False)
    found = same_names(new, reference)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.statistic == pytest.approx(
        (abs(40 / 130 - 200 / 440) + abs(60 / 130 - 150 / 440) + abs(30 / 130 - 90 / 440)) / 2
    )


def test_rare_names_share_a_cell() -> None:
    # c, d and e are each expected fewer than five times among 100 new photos, and together often enough.
    new, reference = {"a": 50, "b": 35, "c": 5, "d": 5, "e": 5}, {"a": 60, "b": 34, "c": 2, "d": 2, "e": 2}
    expected = chi2_contingency(np.array([[50, 35, 15], [60, 34, 6]]), correction=False)
    assert same_names(new, reference).p == pytest.approx(expected.pvalue)


def test_twenty_thousand_names_of_one_photo_each() -> None:
    new = {f"name {number}": 1 for number in range(20_000)}
    assert same_names(new, {f"name {number}": 1 for number in range(10_000, 30_000)}).p == 1.0
    common = {f"name {number}": 5 for number in range(20_000)}
    assert 0 <= same_names(common, dict.fromkeys(common, 6)).p <= 1


def test_one_photo_is_never_an_alarm_by_its_name() -> None:
    assert same_names({"a": 1}, {"b": 500}).p == 1.0
    assert same_distribution(np.array([9.0]), np.arange(500.0)).p > 1e-3
    assert longer_tail(np.array([1e9]), np.arange(499.0), tail=0.05).p == pytest.approx(24 / 500)


def test_constant_scores_and_nan() -> None:
    same = np.full(300, 0.5)
    assert same_distribution(same, same).p == 1.0
    assert longer_tail(same, same).p == 1.0
    broken = np.array([np.nan, np.inf, 1.0])
    assert finite(broken).tolist() == [1.0]
    for found in (same_distribution(broken[:1], same), longer_tail(broken[:2], same), same_names({}, {"a": 3})):
        assert np.isnan(found.p)
        assert np.isnan(found.statistic)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.5, times 4, 3, 2, 1: 0.04, 0.06, 0.06 (never less than before), 0.5.
    found = holm(np.array([0.5, 0.01, np.nan, 0.03, 0.02]))
    np.testing.assert_allclose(found, [0.5, 0.04, np.nan, 0.06, 0.06])
    assert len(holm(np.zeros(0))) == 0


@pytest.mark.parametrize("ties", [False, True])
def test_no_test_alarms_too_often_where_nothing_has_changed(ties: bool) -> None:
    random = np.random.default_rng(2)
    names = np.array([f"n{number}" for number in range(60)])
    shares = 1 / np.arange(1, 61)
    shares /= shares.sum()
    alarms = np.zeros(3)
    for _ in range(600):
        scores = random.gamma(2.0, size=500)
        scores = np.round(scores, 1) if ties else scores
        given = random.choice(names, 500, p=shares)
        count = [dict(zip(*np.unique(some, return_counts=True), strict=True)) for some in (given[:200], given[200:])]
        found = (
            same_distribution(scores[:200], scores[200:]),
            longer_tail(scores[:200], scores[200:]),
            same_names(*count),
        )
        alarms += [one.p <= 0.05 for one in found]
    # 5% of 600 are 30 ± 5.3; three deviations above it.
    assert (alarms <= 46).all(), alarms
