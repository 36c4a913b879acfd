import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from fgvr.heads.prototypes import answers_per_name, class_sums, left_out_cosines, prototypes
from tests.fgvr.heads.planted_rows import random_vectors

# Four images in the plane: two of name 0, one of name 3, one without a label.
VECTORS = np.array([[1, 0], [0.6, 0.8], [0, 1], [-1, 0]], np.float32)
LABELS = np.array([0, 0, 3, -1])


def test_prototypes_by_hand():
    made = prototypes(VECTORS, LABELS, 5)
    assert made.label_ids.tolist() == [0, 3]
    assert made.images.tolist() == [2, 1]
    # The sum is (1.6, 0.8), of length √3.2.
    np.testing.assert_allclose(made.directions, [[2 / 5**0.5, 1 / 5**0.5], [0, 1]], rtol=1e-6)
    assert made.without.tolist() == []


def test_the_nearest_prototype_is_the_nearest_centroid_of_scikit_learn():
    vectors, labels = random_vectors(300, 8), np.random.default_rng(1).integers(0, 6, 300)
    made = prototypes(vectors, labels, 6)
    sums = np.stack([vectors[labels == name].sum(axis=0) for name in range(6)])
    # On unit centroids the nearest by distance is the nearest by cosine.
    centroids = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    reference = NearestCentroid().fit(np.concatenate([0.9 * centroids, 1.1 * centroids]), np.tile(np.arange(6), 2))
    others = random_vectors(200, 8, seed=2)
    assert (made.label_ids[(others @ made.directions.T).argmax(axis=1)] == reference.predict(others)).all()


def test_vectors_that_cancel_and_names_without_vectors_have_no_prototype():
    vectors = np.array([[1, 0], [-1, 0], [0, 1], [0, 0]], np.float32)
    made = prototypes(vectors, np.array([0, 0, 1, 2]), 4)
    assert made.label_ids.tolist() == [1]
    assert made.without.tolist() == [0, 2]  # 3 was never given


def test_no_labels_no_prototypes():
    made = prototypes(VECTORS, np.full(4, -1), 5)
    assert len(made.label_ids) == 0
    assert made.directions.shape == (0, 2)
    assert prototypes(VECTORS[:0], LABELS[:0], 5).directions.shape == (0, 2)


def test_the_order_of_images_does_not_matter_and_half_precision_is_summed_in_double():
    vectors, labels = random_vectors(5000, 16).astype(np.float16), np.random.default_rng(1).integers(0, 3, 5000)
    order = np.random.default_rng(2).permutation(5000)
    here, there = prototypes(vectors, labels, 3), prototypes(vectors[order], labels[order], 3)
    np.testing.assert_allclose(here.directions, there.directions, atol=1e-6)
    sums, counts = class_sums(vectors, labels, 3)
    np.testing.assert_allclose(sums[1], vectors[labels == 1].astype(np.float64).sum(axis=0), rtol=1e-12)
    assert counts.tolist() == np.bincount(labels).tolist()


def test_left_out_cosines_are_those_of_prototypes_without_the_image():
    vectors, labels = random_vectors(30, 6), np.random.default_rng(1).integers(0, 4, 30)
    labels[3] = 4  # a name of its own
    labels[5] = -1
    rows = np.array([0, 3, 7])
    cosines, own = left_out_cosines(vectors, labels, 5, rows)
    for place, row in enumerate(rows):
        rest = labels.copy()
        rest[row] = -1
        reference = prototypes(vectors, rest, 5)
        for column, name in enumerate(prototypes(vectors, labels, 5).label_ids):
            if name not in reference.label_ids:
                assert cosines[place, column] == -np.inf
                continue
            expected = vectors[row] @ reference.directions[reference.label_ids.tolist().index(name)]
            assert cosines[place, column] == pytest.approx(expected, abs=1e-5)
    assert own.tolist() == [labels[0], -1, labels[7]]


def test_answers_per_name_by_hand():
    assert answers_per_name(LABELS) == 1.5
    assert answers_per_name(np.array([-1, -1])) == 0.0


@pytest.mark.parametrize(
    ("vectors", "labels", "message"),
    [
        (VECTORS, LABELS[:3], "one row per image"),
        (VECTORS, np.array([0, 0, 5, -1]), "label space of 5"),
        (VECTORS, np.array([0, 0, -2, -1]), "label space of 5"),
        (np.array([[np.nan, 0]], np.float32), np.array([0]), "not finite"),
    ],
)
def test_what_does_not_fit_together_is_refused(vectors, labels, message):
    with pytest.raises(ValueError, match=message):
        class_sums(vectors, labels, 5)
