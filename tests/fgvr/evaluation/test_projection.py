import numpy as np
import pytest

from fgvr.evaluation.aspects import project


def clusters(n=60):
    rng = np.random.default_rng(0)
    centres = np.array([[0.1] * 6, [0.9] * 6, [0.1, 0.9] * 3])
    return np.clip(np.repeat(centres, n // 3, axis=0) + rng.normal(0, 0.02, (n, 6)), 0, 1).astype(np.float32)


def test_what_is_near_stays_near_and_a_seed_gives_the_same_map():
    vectors = clusters()
    vectors[3, 2] = np.nan
    points = project(vectors, seed=0)
    assert points is not None
    assert points.shape == (60, 2)
    assert (points.min(), points.max()) == (0, 1)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + 9 * np.eye(60)
    assert (distances.argmin(axis=1) // 20 == np.arange(60) // 20).all()
    np.testing.assert_array_equal(points, project(vectors, seed=0))


@pytest.mark.parametrize("vectors", [np.zeros((0, 3)), np.zeros((9, 0)), np.full((50, 3), 0.5), np.eye(4)])
def test_too_little_for_a_map(vectors):
    assert project(vectors.astype(np.float32), seed=0) is None


def test_five_images_and_one_question_are_enough():
    points = project(np.linspace(0, 1, 5, dtype=np.float32)[:, None], seed=1)
    assert points is not None
    assert np.isfinite(points).all()
