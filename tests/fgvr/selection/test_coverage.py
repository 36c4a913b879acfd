"""Estimates of coverage, by hand and against the truth of drawn clusters; and the second round."""

import numpy as np
import pytest

from fgvr.arrays import NONE
from fgvr.selection.choose import Space, choose
from fgvr.selection.coverage import BINS, Reach, coverage, distances, reach
from fgvr.selection.second_round import doubt, prototypes, second_round
from tests.fgvr.selection.test_choose import at_angles
from tests.fgvr.selection.test_kmeans import blobs


def test_reach_by_hand():
    vectors = at_angles(0, 20, 60, 65)
    found = reach(vectors, np.array([0, 2]))
    assert found.nearest.tolist() == [1, 0]
    np.testing.assert_allclose(found.similarity, np.cos(np.radians(60)), atol=1e-6)
    # 20 degrees from the first and 5 from the second: cosines 0.940 and 0.996, in the bins from 0.93 and from 0.99.
    assert np.flatnonzero(found.counts).tolist() == [193, 199]
    assert found.stands_for.tolist() == [2, 2]
    assert distances(vectors, np.array([0, 2])).tolist() == found.counts.tolist()
    assert distances(vectors, np.arange(4)).sum() == 0


def test_the_covered_share_follows_the_agreement_of_the_asked():
    # Of the pairs at 0.2, a quarter agree; of those at 0.8, three quarters: logistic regression meets both.
    similarity = np.repeat([0.205, 0.805], 40).astype(np.float32)
    partner = np.arange(80) ^ 1
    labels = np.arange(80)
    for first in (*range(0, 10, 2), *range(40, 70, 2)):
        labels[first + 1] = labels[first]
    counts = np.zeros(BINS, np.int64)
    counts[120], counts[180] = 10, 30
    doubled = np.zeros(BINS, np.int64)
    doubled[180] = 40
    found = coverage(Reach(counts, partner, similarity, np.ones(80, int)), labels, doubled)
    assert found is not None
    assert found.covered == pytest.approx((10 * 0.25 + 30 * 0.75) / 40, abs=1e-3)
    assert found.doubled == pytest.approx(0.75, abs=1e-3)
    assert found.new_names == pytest.approx(40 / 80)  # the two of each of 20 pairs that do not agree


def test_where_nearness_says_nothing_the_mean_agreement_counts():
    similarity = np.linspace(0, 1, 20, dtype=np.float32)
    labels = np.where(np.arange(20) < 10, 0, np.arange(20))  # those that are near each other do not agree
    found = coverage(Reach(np.ones(BINS, np.int64), np.arange(20) ^ 1, similarity, np.ones(20, int)), labels)
    assert found is not None
    assert (found.covered, found.doubled) == (pytest.approx(0.5), None)
    alike = coverage(Reach(np.ones(BINS, np.int64), np.arange(20) ^ 1, similarity, np.ones(20, int)), np.zeros(20, int))
    assert alike is not None
    assert (alike.covered, alike.new_names) == (pytest.approx(1.0), 0)


def test_no_estimate_without_enough_names():
    alone = Reach(np.ones(BINS, np.int64), np.array([NONE]), np.array([-np.inf], np.float32), np.array([1]))
    assert coverage(alone, np.array([3])) is None
    many = Reach(
        np.ones(BINS, np.int64), np.arange(20)[::-1], np.linspace(0, 1, 20, dtype=np.float32), np.ones(20, int)
    )
    assert coverage(many, np.full(20, NONE)) is None
    nothing_left = Reach(np.zeros(BINS, np.int64), many.nearest, many.similarity, many.stands_for)
    assert coverage(nothing_left, np.arange(20) % 3) is None


@pytest.mark.parametrize("noise", [0.15, 0.3])
def test_the_estimate_is_near_the_truth(noise):
    vectors, labels = blobs(30, 100, dim=32, noise=noise)
    chosen = choose(Space(vectors, vectors), 90).rows
    twice = choose(Space(vectors, vectors), 180).rows
    found = coverage(reach(vectors, chosen), labels[chosen], distances(vectors, twice))
    assert found is not None
    for said, asked in ((found.covered, chosen), (found.doubled, twice)):
        others = np.setdiff1d(np.arange(len(labels)), asked)
        near = asked[(vectors[others] @ vectors[asked].T).argmax(axis=1)]
        assert said == pytest.approx((labels[others] == labels[near]).mean(), abs=0.08)


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
