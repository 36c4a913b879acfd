"""The size of an audit: against the binomial test of SciPy over all outcomes, and against drawn audits."""

import numpy as np
import pytest
from scipy.stats import binomtest, multinomial

from fgvr.beliefs.audit import FEWEST, MOST, audit_size, drawn, outcome, power, sign_test


@pytest.mark.parametrize(("first", "second"), [(0, 0), (5, 0), (6, 0), (3, 3), (15, 4), (40, 60)])
def test_the_sign_test_is_scipys(first, second):
    expected = 1.0 if first + second == 0 else binomtest(first, first + second).pvalue
    assert sign_test(first, second) == pytest.approx(expected)


@pytest.mark.parametrize(("p", "r", "photos"), [(0.6, 0.2, 20), (0.1, 0.5, 15), (0.5, 0.5, 30), (1.0, 0.0, 6)])
def test_the_power_over_all_outcomes(p, r, photos):
    chances = multinomial(photos, [p, r, max(0.0, 1 - p - r)])
    expected = 0.0
    for first in range(photos + 1):
        for second in range(photos + 1 - first):
            wins = first > second if p > r else second > first
            if p != r and wins and first + second and binomtest(first, first + second).pvalue <= 0.05:
                expected += chances.pmf([first, second, photos - first - second])
    assert power(p, r, photos) == pytest.approx(expected, abs=1e-9)


def test_sizes():
    assert audit_size(1.0, 0.0) == FEWEST  # six photos would do
    sizes = [audit_size(p, 0.1) for p in (0.9, 0.5, 0.4, 0.3)]
    assert sizes == sorted(sizes)
    assert all(FEWEST <= size <= MOST for size in sizes)
    for p, size in zip((0.5, 0.4, 0.3), sizes[1:], strict=True):
        assert all(power(p, 0.1, photos) >= 0.8 for photos in range(size, MOST + 1))
        assert power(p, 0.1, size - 1) < 0.8
    assert audit_size(0.1, 0.5) == audit_size(0.5, 0.1)


@pytest.mark.parametrize(("p", "r"), [(0.3, 0.3), (0.35, 0.3), (0.0, 0.0), (0.02, 0.0)])
def test_no_sane_number_decides(p, r):
    assert audit_size(p, r) is None


def test_drawn_audits_of_that_size_decide_rightly_four_times_of_five():
    size = audit_size(0.45, 0.15)
    random = np.random.default_rng(0)
    audits = random.multinomial(size, [0.45, 0.15, 0.4], 2000)
    decided = np.mean([sign_test(first, second) <= 0.05 and first > second for first, second, _ in audits])
    assert 0.78 <= decided <= 0.9


def test_the_outcome_of_an_audit():
    truth = np.array([1] * 12 + [2] * 2 + [3], np.int32)
    found = outcome(np.full(15, 1, np.int32), np.full(15, 2, np.int32), truth)
    assert (found.first, found.second, found.neither, found.better) == (12, 2, 1, "first")
    few = outcome(np.full(3, 1, np.int32), np.full(3, 2, np.int32), truth[:3])
    assert few.better is None
    none = outcome(*[np.zeros(0, np.int32)] * 3)
    assert (none.p, none.better) == (1.0, None)


def test_the_sample_is_of_the_differences_and_drawn_once():
    differ = np.arange(100, 200)
    sample = drawn(differ, 20, seed=3)
    assert sample.tolist() == drawn(differ, 20, seed=3).tolist() != drawn(differ, 20, seed=4).tolist()
    assert len(set(sample.tolist())) == 20
    assert set(sample.tolist()) <= set(differ.tolist())
    assert drawn(differ[:7], 20).tolist() == differ[:7].tolist()
    assert drawn(differ, None).tolist() == []


def test_bad_input_is_refused():
    same = np.array([1, 2], np.int32)
    with pytest.raises(ValueError, match="both say the same"):
        outcome(same, same, same)
    with pytest.raises(ValueError, match="2 and 1 names for 2"):
        outcome(same, same[:1], same)
    with pytest.raises(ValueError, match="exclude each other"):
        power(0.7, 0.4, 10)
    with pytest.raises(ValueError, match="negative"):
        sign_test(-1, 3)
