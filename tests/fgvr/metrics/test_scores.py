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
