"""Spherical k-means against an independent implementation, and what it does with degenerate data."""

import numpy as np
import pytest
from sklearn.cluster import KMeans

from fgvr.selection import kmeans
from fgvr.selection.kmeans import assign, spherical_kmeans


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def blobs(clusters: int, each: int, dim: int = 16, noise: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(clusters), each)
    centres = unit(random.normal(size=(clusters, dim)))
    return unit(centres[labels] + noise * random.normal(size=(len(labels), dim))), labels


def test_four_points_by_hand():
    # Two pairs at ±10 degrees around the axes: the centres are the axes, the cosines to them those of 10 degrees.
    angles = np.radians([-10, 10, 80, 100])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    centres = spherical_kmeans(vectors, 2)
    centres = centres[np.argsort(centres[:, 1])]
    np.testing.assert_allclose(centres, [[1, 0], [0, 1]], atol=1e-6)
    clusters = assign(vectors, centres)
    assert clusters.nearest.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(clusters.similarity, np.cos(np.radians(10)), atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_separate_clusters_are_found_each_once(seed):
    # 40 clusters: the later ones of the start are drawn in batches.
    vectors, labels = blobs(40, 20, noise=0.05)
    clusters = assign(vectors, spherical_kmeans(vectors, 40, seed=seed))
    found = [set(labels[clusters.nearest == cluster]) for cluster in range(40)]
    assert sum(len(one) == 1 for one in found) >= 36


def test_as_tight_as_those_of_scikit_learn():
    vectors, _ = blobs(30, 40, noise=0.35)
    ours = np.mean([assign(vectors, spherical_kmeans(vectors, 60, seed=seed)).similarity.mean() for seed in range(3)])
    theirs = []
    for seed in range(3):
        fitted = KMeans(60, n_init=1, max_iter=12, random_state=seed).fit(vectors)
        theirs.append(assign(vectors, unit(fitted.cluster_centers_)).similarity.mean())
    assert ours == pytest.approx(np.mean(theirs), abs=0.01)


def test_the_same_seed_gives_the_same_centres_and_blocks_do_not_matter(monkeypatch):
    vectors, _ = blobs(10, 30)
    centres = spherical_kmeans(vectors, 10, seed=3)
    np.testing.assert_array_equal(spherical_kmeans(vectors, 10, seed=3), centres)
    assert not np.array_equal(spherical_kmeans(vectors, 10, seed=4), centres)
    monkeypatch.setattr(kmeans, "SCORES", 640)
    np.testing.assert_allclose(spherical_kmeans(vectors, 10, seed=3), centres, atol=1e-5)


def test_learns_from_a_sample_of_a_file_in_half_precision(tmp_path, monkeypatch):
    vectors, labels = blobs(8, 500, noise=0.05)
    np.save(tmp_path / "v.npy", vectors.astype(np.float16))
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    monkeypatch.setattr(kmeans, "PER_CENTRE", 20)
    monkeypatch.setattr(kmeans, "LEAST_START", 64)
    clusters = assign(mapped, spherical_kmeans(mapped, 8))
    assert [len(set(labels[clusters.nearest == cluster])) for cluster in range(8)] == [1] * 8


def test_weights_count_images_several_times():
    vectors = unit(np.array([[1.0, 0.0], [0.0, 1.0]]))
    centre = spherical_kmeans(vectors, 1, weights=np.array([3, 1], np.float32))
    np.testing.assert_allclose(centre, unit(np.array([[3.0, 1.0]])), atol=1e-6)
    without = spherical_kmeans(vectors, 2, weights=np.array([1, 0], np.float32))
    np.testing.assert_allclose(without, vectors[:1], atol=1e-6)


def test_fewer_different_vectors_than_centres():
    vectors = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    assert spherical_kmeans(vectors, 10).shape == (3, 3)
    assert spherical_kmeans(vectors[:5], 4).shape == (1, 3)


def test_vectors_without_a_direction():
    assert np.isfinite(spherical_kmeans(np.zeros((4, 3), np.float32), 2)).all()


@pytest.mark.parametrize(("count", "rows", "weights"), [(0, 3, None), (1, 0, None), (1, 3, np.zeros(3, np.float32))])
def test_what_cannot_be_clustered(count, rows, weights):
    with pytest.raises(ValueError, match=r"cannot make|no vector has a weight"):
        spherical_kmeans(np.eye(3, dtype=np.float32)[:rows], count, weights=weights)
