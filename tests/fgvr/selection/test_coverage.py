"""Estimates of coverage, by hand and against the truth of drawn clusters; and the second round."""

import numpy as np
import pytest

from fgvr.arrays import NONE
from fgvr.selection.choose import Space, choose
from fgvr.selection.coverage import BINS, Reach, coverage, reach
from fgvr.selection.second_round import doubt, prototypes, second_round
from tests.fgvr.selection.test_choose import at_angles
from tests.fgvr.selection.test_kmeans import blobs


def test_reach_by_hand():
    vectors = at_angles(0, 20, 60, 65)
    found = reach(vectors, np.array([0, 2]))
    assert found.nearest.tolist() == [1, 0]
    np.testing.assert_allclose(found.similarity, np.cos(np.radians(60)), atol=1e-6)
    # 20 degrees from the first and 5 from the second: cosines 0.940 and 0.996, in the bins from 0.94 - 0.01 and 0.99.
    assert np.flatnonzero(found.counts[-1]).tolist() == [193, 199]
    assert found.counts.sum(axis=1).tolist() == [2, 2, 2]


def test_the_covered_share_by_hand():
    # Asked images nearer than 0.5 to another agree, the others do not; 30 images are near, 10 far.
    similarity = np.array([0.1, 0.2, 0.3, 0.4, 0.45, 0.6, 0.7, 0.8, 0.9, 0.95], np.float32)
    labels = np.array([0, 1, 2, 3, 4, 5, 5, 5, 5, 5])
    counts = np.zeros((3, BINS), np.int64)
    counts[2, 185], counts[2, 110] = 30, 10
    counts[1, 185], counts[1, 110] = 20, 20
    counts[0, 185], counts[0, 110] = 0, 40
    found = coverage(Reach(counts, np.array([1, 2, 3, 4, 0, 6, 5, 6, 5, 6]), similarity), labels)
    assert found is not None
    assert found.covered == pytest.approx(0.75)
    assert found.half == pytest.approx(0.5)
    # The last doubling gained 0.25, half of what the one before gained: the next one gains 0.125.
    assert found.doubled == pytest.approx(0.875)
    assert found.new_names == pytest.approx(0.5)  # five of ten names occur once


def test_no_estimate_without_enough_names():
    alone = Reach(np.ones((3, BINS), np.int64), np.array([NONE]), np.array([-np.inf], np.float32))
    assert coverage(alone, np.array([3])) is None
    many = Reach(np.ones((3, BINS), np.int64), np.arange(20)[::-1], np.linspace(0, 1, 20, dtype=np.float32))
    assert coverage(many, np.full(20, NONE)) is None
    nothing_left = Reach(np.zeros((3, BINS), np.int64), many.nearest, many.similarity)
    assert coverage(nothing_left, np.arange(20) % 3) is None


@pytest.mark.parametrize("noise", [0.15, 0.3])
def test_the_estimate_is_near_the_truth(noise):
    vectors, labels = blobs(30, 100, dim=32, noise=noise)
    chosen = choose(Space(vectors, vectors), 90).rows
    found = coverage(reach(vectors, chosen), labels[chosen])
    others = np.setdiff1d(np.arange(len(labels)), chosen)
    near = chosen[(vectors[others] @ vectors[chosen].T).argmax(axis=1)]
    assert found is not None
    assert found.covered == pytest.approx((labels[others] == labels[near]).mean(), abs=0.08)
    assert found.half <= found.covered <= found.doubled <= 1


def test_prototypes_by_hand():
    found = prototypes(at_angles(0, 40, 90), np.array([7, 7, 3]))
    np.testing.assert_allclose(found, at_angles(90, 20), atol=1e-6)


def test_doubt_is_large_between_names_and_far_from_them():
    vectors = at_angles(0, 45, 90, 225)
    found = doubt(Space(vectors, vectors), at_angles(0, 90), np.zeros(4, np.float32), "cpu")
    np.testing.assert_allclose(found, [0, 1, 0, 1], atol=1e-4)


def test_the_second_round_asks_where_names_are_missing_or_disputed():
    vectors, labels = blobs(20, 30, dim=32, noise=0.1)
    first = np.flatnonzero((labels < 12) & (np.arange(len(labels)) % 30 < 2))
    space = Space(vectors, vectors)
    found = second_round(space, first, labels[first], 16)
    assert len(found.chosen.rows) == 16
    assert not set(found.chosen.rows) & set(first)
    assert set(labels[found.chosen.rows]) >= set(range(12, 20))  # the eight without any answer
    assert found.uncovered[labels[found.chosen.rows] >= 12].all()


@pytest.mark.parametrize("names", [[NONE, NONE, NONE], [0, 0, 0]])
def test_a_first_round_with_one_name_or_none(names):
    vectors, labels = blobs(6, 20)
    found = second_round(Space(vectors, vectors), np.array([0, 1, 2]), np.array(names), 5)
    # Distance alone counts: none of the cluster that was asked about.
    assert len(found.chosen.rows) == 5
    assert 0 not in labels[found.chosen.rows]
    alone = second_round(Space(vectors, vectors), np.array([0]), np.array([0]), 5)
    assert len(alone.chosen.rows) == 5
