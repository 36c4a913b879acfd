"""Which images are chosen: by hand, near-duplicates once, and from fewer images than are asked for."""

import numpy as np
import pytest

from fgvr.selection.choose import Space, choose, different, medoids, typical
from fgvr.selection.kmeans import Clusters
from fgvr.selection.whitening import fit_whitening
from tests.fgvr.selection.test_kmeans import blobs, unit


def at_angles(*degrees: float) -> np.ndarray:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_medoids_and_typical_images_by_hand():
    # A cluster at 0, 10, 20 and 60 degrees, whose centre is said to lie at 25; and a cluster of one.
    vectors = at_angles(0, 10, 20, 60, 180)
    clusters = Clusters(np.array([0, 0, 0, 0, 2]), np.cos(np.radians([25, 15, 5, 35, 0])).astype(np.float32))
    assert medoids(clusters).tolist() == [2, 4]
    # Of half of the cluster, two, the nearest: 10 degrees has 10 and 10 to go, 20 has 10 and 20, 0 has 10 and 20.
    assert typical(clusters, vectors, np.arange(5)).tolist() == [1, 4]


@pytest.mark.parametrize("how", ["medoids", "typical"])
def test_every_cluster_is_asked_about(how):
    vectors, labels = blobs(25, 12, noise=0.05)
    chosen = choose(Space(vectors, vectors), 25, how)
    assert (np.diff(chosen.rows) > 0).all()
    assert len(chosen.rows) == 25
    assert len(set(labels[chosen.rows])) >= 23
    at_random = np.random.default_rng(0).permutation(len(labels))[:25]
    assert len(set(labels[chosen.rows])) > len(set(labels[at_random])) + 4


def test_near_duplicates_are_asked_about_once():
    vectors, _ = blobs(12, 1, dim=32)
    copies = np.repeat(vectors, 6, axis=0)
    copies = unit(copies + 0.005 * np.random.default_rng(0).normal(size=copies.shape))
    chosen = choose(Space(copies, copies), 20)
    assert sorted(chosen.rows // 6) == list(range(12))  # fewer than 20: there are no more different photos
    # One that was asked about before is not asked about again, in whatever copy.
    more = choose(Space(copies, copies), 5, asked=np.array([3, 8]))
    assert len(more.rows) == 5
    assert not {0, 1} & set(more.rows // 6)
    # Copies are what the configured cosine says.
    assert len(choose(Space(copies, copies, 1.01), 20).rows) == 20


def test_different_keeps_the_first_of_a_pair_and_none_of_those_taken():
    vectors = at_angles(0, 1, 90, 91, 180)
    rows = np.array([0, 1, 2, 4])
    assert different(Space(vectors, vectors), rows, np.array([3])).tolist() == [True, False, False, True]
    assert different(Space(vectors, vectors), np.zeros(0, np.int64), rows).tolist() == []


@pytest.mark.parametrize("count", [5, 6, 50])
def test_no_more_photos_than_are_asked_for(count):
    vectors, _ = blobs(5, 1)
    chosen = choose(Space(vectors, vectors), count)
    assert chosen.rows.tolist() == [0, 1, 2, 3, 4]


def test_photos_that_are_all_alike_are_one_photo():
    vectors = np.tile(unit(np.ones((1, 8))), (30, 1))
    whitened = fit_whitening(vectors).apply(vectors)
    assert len(choose(Space(vectors, whitened), 10).rows) == 1


def test_the_images_of_a_weight():
    vectors, labels = blobs(6, 20, noise=0.05)
    weights = (labels < 3).astype(np.float32)
    chosen = choose(Space(vectors, vectors), 6, weights=weights)
    assert (labels[chosen.rows] < 3).all()
    assert len(chosen.rows) == 6


def test_the_same_seed_chooses_the_same_images():
    vectors, _ = blobs(10, 30, noise=0.3)
    space = Space(vectors, vectors)
    assert choose(space, 15, seed=1).rows.tolist() == choose(space, 15, seed=1).rows.tolist()
    assert choose(space, 15, seed=1).rows.tolist() != choose(space, 15, seed=2).rows.tolist()
