"""Common nearest neighbours of two encoders, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from fgvr.metrics.neighbour_agreement import nearest, neighbour_agreement


def test_worked_by_hand() -> None:
    angles = np.deg2rad([0, 10, 30, 70, 150])
    first = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert nearest(first, 2).tolist() == [[1, 2], [0, 2], [1, 0], [2, 1], [3, 2]]
    # The third and the fourth change places: 30 ↔ 70.
    second = first[[0, 1, 3, 2, 4]]
    assert nearest(second, 2).tolist() == [[1, 3], [0, 3], [3, 1], [1, 0], [2, 3]]
    # Shared: {1}, {0}, {1}, {1}, {2, 3}.
    assert neighbour_agreement(first, second, 2) == pytest.approx((1 + 1 + 1 + 1 + 2) / 10)
    assert neighbour_agreement(first, 7 * first, 2) == 1  # a student that equals the teacher


def test_it_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(size=(300, 16)).astype(np.float32), random.normal(size=(300, 8)).astype(np.float32)
    second[:, :4] += first[:, :4]

    def neighbours(vectors: np.ndarray) -> list[set[int]]:
        search = NearestNeighbors(n_neighbors=10, metric="cosine").fit(vectors)
        return [set(row) for row in search.kneighbors(return_distance=False).tolist()]

    expected = np.mean([len(a & b) / 10 for a, b in zip(neighbours(first), neighbours(second), strict=True)])
    assert neighbour_agreement(first, second) == pytest.approx(expected, abs=1e-12)


def test_vectors_drawn_at_random_agree_as_chance_says() -> None:
    random = np.random.default_rng(1)
    found = neighbour_agreement(*(random.normal(size=(2100, 8)).astype(np.float32) for _ in range(2)))
    assert found == pytest.approx(10 / 2099, abs=0.001)  # more rows than are compared at a time


def test_so_few_images_that_nothing_is_chosen_are_refused() -> None:
    eleven = np.eye(11, dtype=np.float32)
    with pytest.raises(ValueError, match="all are the 10 nearest"):
        neighbour_agreement(eleven, eleven)
    with pytest.raises(ValueError, match="11 and of 10"):
        neighbour_agreement(eleven, eleven[:10])
