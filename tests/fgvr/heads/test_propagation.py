import math

import numpy as np
import pytest

from fgvr.heads import propagation
from fgvr.heads.propagation import ALPHA, BETA, ROUNDS, Spread, graph, propagate, propagated_scores
from fgvr.heads.prototypes import Prototypes
from tests.fgvr.heads.planted_rows import random_vectors

NONE_ID = -1


def nearest(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    indices = np.argsort(-cosines, axis=1)[:, :k]
    return indices, np.take_along_axis(cosines, indices, axis=1).astype(np.float32)


def dense_reference(indices, similarities, labels, names) -> np.ndarray:
    """The same by dense linear algebra, as the formulas stand."""
    count = len(indices)
    w = np.zeros((count, count))
    for i in range(count):
        for j, s in zip(indices[i], similarities[i], strict=True):
            if j not in (NONE_ID, i):
                w[i, j] = max(w[i, j], math.exp(BETA * (s - 1)))
    w = np.maximum(w, w.T)
    degrees = w.sum(axis=1)
    root = np.divide(1, np.sqrt(degrees), out=np.zeros(count), where=degrees > 0)
    w = root[:, None] * w * root[None, :]
    y = np.zeros((count, names))
    for i, t in enumerate(labels):
        if t != NONE_ID:
            y[i, t] = 1 / (labels == t).sum()
    z = np.zeros_like(y)
    for _ in range(ROUNDS):
        z = ALPHA * w @ z + (1 - ALPHA) * y
    return z


def as_dense(spread: Spread, names: int) -> np.ndarray:
    result = np.zeros((len(spread.label_ids), names))
    rows, places = np.nonzero(spread.label_ids != NONE_ID)
    result[rows, spread.label_ids[rows, places]] = spread.mass[rows, places]
    return result


def test_a_graph_of_two_by_hand():
    # Only image 0 names 1 as its neighbour: symmetrised, both have degree e^(−5) and W is the exchange.
    w = graph(np.array([[1], [-1]]), np.array([[0.5], [-np.inf]], np.float32)).toarray()
    np.testing.assert_allclose(w, [[0, 1], [1, 0]], rtol=1e-6)


def test_two_images_by_hand():
    # z0 = .9 z1 + .1, z1 = .9 z0: after n rounds of the exchange, z0 = .1 Σ .81^k over even steps.
    w = graph(np.array([[1], [0]]), np.ones((2, 1), np.float32))
    spread = propagate(w, np.array([7, -1]), 9)
    even = sum(0.1 * 0.9**step for step in range(0, ROUNDS, 2))
    odd = sum(0.1 * 0.9**step for step in range(1, ROUNDS, 2))
    np.testing.assert_allclose(spread.mass[:, 0], [even, odd], rtol=1e-5)
    assert spread.label_ids.tolist() == [[7], [7]]


@pytest.mark.parametrize("keep", [None, 6, 40])
def test_all_names_kept_is_dense_linear_algebra(keep):
    vectors = random_vectors(120, 5)
    labels = np.where(np.arange(120) % 3 == 0, np.random.default_rng(1).integers(0, 6, 120), -1)
    indices, similarities = nearest(vectors, 4)
    spread = propagate(graph(indices, similarities), labels, 8, keep=keep)
    np.testing.assert_allclose(
        as_dense(spread, 8), dense_reference(indices, similarities, labels, 8), rtol=2e-4, atol=1e-7
    )


def test_few_names_kept_are_the_heaviest_and_change_little():
    vectors = random_vectors(400, 4)
    labels = np.where(np.arange(400) % 4 == 0, np.random.default_rng(1).integers(0, 40, 400), -1)
    w = graph(*nearest(vectors, 6))
    exact, cut = as_dense(propagate(w, labels, 40), 40), as_dense(propagate(w, labels, 40, keep=10), 40)
    assert ((cut > 0).sum(axis=1) <= 10).all()
    assert (exact.argmax(axis=1) == cut.argmax(axis=1)).mean() > 0.97
    assert (cut <= exact * (1 + 1e-4) + 1e-9).all()  # what is cut off cannot come back as more


def test_blocks_and_wide_rows_change_nothing(monkeypatch):
    vectors = random_vectors(150, 3)
    vectors[1:40] = vectors[0] * 0.999 + 0.001  # image 0 is near to many
    labels = np.where(np.arange(150) % 2 == 0, np.arange(150) % 30, -1)
    w = graph(*nearest(vectors, 5))
    whole = as_dense(propagate(w, labels, 30, keep=8), 30)
    monkeypatch.setattr(propagation, "CELLS_AT_ONCE", 200)
    monkeypatch.setattr(propagation, "WIDE", 9)
    np.testing.assert_allclose(as_dense(propagate(w, labels, 30, keep=8), 30), whole, rtol=1e-4, atol=1e-8)


def test_an_image_that_no_label_reaches_has_no_mass_and_counts_its_prototypes_alone():
    w = graph(np.array([[1], [0], [-1]]), np.array([[0.9], [0.9], [-np.inf]], np.float32))
    spread = propagate(w, np.array([0, -1, -1]), 2)
    assert spread.mass[2].sum() == 0
    made = Prototypes(np.array([0, 1]), np.eye(2, dtype=np.float32), np.ones(2, np.int64), np.zeros(0, np.int64))
    vectors = np.array([[1, 0], [0, 1], [0, 1]], np.float32)
    scores = propagated_scores(vectors, made, spread)
    p = 1 / (1 + math.exp(-20))
    # Image 1 looks like name 1, but all its mass is of name 0.
    np.testing.assert_allclose(scores, [[(p + 1) / 2, (1 - p) / 2], [(1 - p + 1) / 2, p / 2], [1 - p, p]], atol=1e-6)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-6)


def test_mass_of_a_name_without_prototype_is_left_out():
    made = Prototypes(np.array([1]), np.array([[1, 0]], np.float32), np.ones(1, np.int64), np.array([3]))
    spread = Spread(np.array([[3, 1], [3, -1]], np.int32), np.array([[0.5, 0.1], [0.2, 0]], np.float32))
    np.testing.assert_allclose(propagated_scores(np.array([[1, 0], [0, 1]], np.float32), made, spread), [[1], [1]])


def test_no_labels_and_no_neighbours():
    lonely = graph(np.full((3, 2), -1), np.full((3, 2), -np.inf, np.float32))
    assert propagate(lonely, np.array([-1, -1, -1]), 5).mass.sum() == 0
    alone = as_dense(propagate(lonely, np.array([2, -1, -1]), 5, keep=4), 5)
    np.testing.assert_allclose(alone[0], [0, 0, 0.1, 0, 0], rtol=1e-5)
    assert alone[1:].sum() == 0


@pytest.mark.parametrize(
    ("indices", "similarities", "message"),
    [
        (np.array([[5]]), np.ones((1, 1), np.float32), "among 1 images"),
        (np.array([[0, 0]]), np.ones((1, 1), np.float32), "similarities"),
    ],
)
def test_neighbours_that_are_none_are_refused(indices, similarities, message):
    with pytest.raises(ValueError, match=message):
        graph(indices, similarities)
    with pytest.raises(ValueError, match="for 3 labels"):
        propagate(graph(np.array([[-1]]), np.zeros((1, 1), np.float32)), np.array([0, 0, 1]), 2)
