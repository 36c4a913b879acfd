"""Classes and confusions, counted by hand; intervals with SciPy."""

import pytest
from scipy.stats import binomtest

from fgvr.report.confusions import Confusion, class_scores

TRUE = ["Wren"] * 4 + ["Tern"] * 3 + ["Gull"] * 2 + [None, ""]
NAMES = ["wren", "Tern", "Tern", "", "Tern", "Wren", "Rook", "Gull", "gull", "Wren", "Tern"]


def test_by_hand():
    found = class_scores("near", NAMES, TRUE)
    assert [(row.name, row.photos, row.right) for row in found.rows] == [("Wren", 4, 1), ("Tern", 3, 1), ("Gull", 2, 2)]
    assert [(row.wrong_name, row.wrong_photos) for row in found.rows] == [("Tern", 2), ("Rook", 1), ("", 0)]
    assert found.pairs == [Confusion("Wren", "Tern", 2, 1), Confusion("Tern", "Rook", 1, 0)]
    for row in found.rows:
        exact = binomtest(row.right, row.photos).proportion_ci(method="exact")
        assert (row.low, row.high) == pytest.approx((exact.low, exact.high))


def test_each_pair_once_even_where_both_directions_are_as_frequent():
    found = class_scores("near", ["B", "A"], ["A", "B"])
    assert len(found.pairs) == 1
    assert (found.pairs[0].photos, found.pairs[0].back) == (1, 1)


def test_nothing_known():
    found = class_scores("near", ["Wren"], [None])
    assert (found.rows, found.pairs) == ([], [])
