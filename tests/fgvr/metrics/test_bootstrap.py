import numpy as np
import pytest
from scipy import stats

from fgvr.metrics.bootstrap import interval


def test_agrees_with_scipy():
    scores = np.random.default_rng(0).choice([0.0, 100.0], size=300, p=[0.3, 0.7])
    low, high = interval(scores, resamples=4000)
    other = stats.bootstrap((scores,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    assert low == pytest.approx(other.low, abs=0.4)
    assert high == pytest.approx(other.high, abs=0.4)


def test_large_samples_use_the_normal_interval():
    scores = np.repeat([0.0, 100.0], 50_000)  # half-width: 1.95996 * 50 / sqrt(100,000) = 0.3099
    low, high = interval(scores)
    assert (low, high) == pytest.approx((49.690, 50.310), abs=1e-3)


def test_same_seed_same_interval():
    scores = np.arange(50.0)
    assert interval(scores, seed=3) == interval(scores, seed=3)


@pytest.mark.parametrize(("scores", "resamples"), [([], 100), ([1.0], 100), ([1.0, 2.0], 0)])
def test_no_interval(scores, resamples):
    assert interval(np.array(scores), resamples=resamples) is None
