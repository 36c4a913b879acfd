from collections.abc import Sequence

import numpy as np
import pytest

from fgvr.metrics.scores import score


class OneHot:
    """Different names are orthogonal, so that sACC is exact-match accuracy."""

    name = "one-hot"

    def encode(self, names: Sequence[str]) -> np.ndarray:
        return np.eye(len(names), dtype=np.float32)


def test_by_hand():
    found = score(["Red Gull", "red gull", "tern", ""], ["Red Gull", "Red Gull", "Red Tern", "Red Tern"], OneHot())
    assert found.sacc == pytest.approx(25)  # only the identical string
    assert found.cacc == pytest.approx(50)  # one spelling of the gull, and the tern
    assert found.siou == pytest.approx((100 + 100 + 50 + 0) / 4)
    assert found.top1 == pytest.approx(50)  # both spellings
    assert (found.images, found.unnamed, found.names, found.mapped) == (4, 1, 3, 0.5)
    assert found.inclusion == pytest.approx(50)  # "tern" does not hold "Red Tern"
    for metric, (low, high) in found.intervals.items():
        assert low <= getattr(found, metric) <= high


def test_images_without_truth_are_refused():
    with pytest.raises(ValueError, match="without a true name"):
        score(["a"], [""], OneHot())


def test_of_many_images_each_pair_of_names_is_scored_once():
    """Ten thousand times the four of above: the same shares, and an interval by the central limit theorem."""
    predicted, true = ["Red Gull", "red gull", "tern", ""], ["Red Gull", "Red Gull", "Red Tern", "Red Tern"]
    few, many = score(predicted, true, OneHot()), score(predicted * 10_000, true * 10_000, OneHot())
    for metric in ("sacc", "cacc", "siou", "top1", "mapped", "inclusion"):
        assert getattr(many, metric) == pytest.approx(getattr(few, metric))
    assert (many.images, many.unnamed, many.names) == (40_000, 10_000, 3)
    # top-1 is 100 for a half and 0 for the other: a standard deviation of 50, by 200 (√40,000), times 1.96.
    low, high = many.intervals["top1"]
    assert (low, high) == (pytest.approx(50 - 1.96 * 0.25, abs=1e-4), pytest.approx(50 + 1.96 * 0.25, abs=1e-4))
    assert score(predicted * 10_000, true * 10_000, OneHot(), resamples=0).intervals == {}


def test_a_match_of_many_images_is_that_of_their_counts():
    """Of "a" 9,000 are x and 8,000 y, of "b" 6,000 are x: a as y and b as x are right in 14,000 of 23,000."""
    predicted = ["a"] * 17_000 + ["b"] * 6_000
    true = ["x"] * 9_000 + ["y"] * 8_000 + ["x"] * 6_000
    assert score(predicted, true, OneHot()).cacc == pytest.approx(100 * 14 / 23)
