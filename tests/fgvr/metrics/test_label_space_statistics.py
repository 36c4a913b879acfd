import numpy as np
import pytest

from fgvr.metrics.label_space import agreement, agreement_matrix, statistics


def test_statistics_by_hand():
    found = statistics(["finch", "finch", "Finch", "gull", ""])
    assert (found.names, found.duplicates, found.singletons) == (3, 1, 2)
    assert (found.images, found.unnamed, found.largest_share) == (4, 1, 0.5)
    # entropy of (1/2, 1/4, 1/4) is 1.5 bits: 2**1.5 names
    assert found.effective == pytest.approx(2**1.5)


def test_four_equal_names_are_four():
    assert statistics(list("abcd")).effective == pytest.approx(4)


def test_no_names():
    found = statistics(["", ""])
    assert (found.names, found.effective, found.largest_share, found.unnamed) == (0, 0, 0, 2)


def test_agreement():
    assert agreement(["Rock Pigeon", "gull", "", "a"], ["rock-pigeon", "tern", "", "a"]) == 0.5


def test_agreement_matrix():
    matrix = agreement_matrix({"one": ["a", "b"], "two": ["a", "c"]})
    np.testing.assert_array_equal(matrix, [[1, 0.5], [0.5, 1]])
