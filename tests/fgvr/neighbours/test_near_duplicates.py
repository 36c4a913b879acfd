"""Groups of near-duplicates, worked by hand and against a comparison of all with all."""

import numpy as np
import pytest

from fgvr.neighbours import nearest
from fgvr.neighbours.duplicates import group


def at_angles(*degrees: float) -> np.ndarray:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_worked_by_hand():
    # Cosines: of 5 degrees 0.9962, of 10 degrees 0.9848. 0–5–10 is a chain whose ends are not one photo.
    vectors = at_angles(0, 5, 10, 90, 92, 200)
    found = nearest(vectors, vectors, 4)
    groups = group(found.ids, found.scores, 0.99)
    assert groups.first.tolist() == [0, 0, 2, 3, 3, 5]
    np.testing.assert_allclose(groups.similarity, [1, 0.99619, 1, 1, 0.99939, 1], atol=1e-5)


def test_a_pair_is_one_photo_where_only_one_of_them_lists_the_other():
    # Image 2 has 1 among its nearest; image 1 has no room for it.
    ids = np.array([[0, 1], [1, 0], [2, 1]])
    scores = np.array([[1, 0.5], [1, 0.5], [1, 0.995]], np.float32)
    assert group(ids, scores, 0.99).first.tolist() == [0, 1, 1]


def test_unused_places_and_nobody_at_all():
    ids, scores = np.array([[0, -1], [1, -1]]), np.array([[1, -np.inf], [1, -np.inf]], np.float32)
    assert group(ids, scores, 0.5).first.tolist() == [0, 1]
    assert group(np.zeros((0, 3), np.int64), np.zeros((0, 3), np.float32), 0.5).first.tolist() == []


@pytest.mark.parametrize("similarity", [0.85, 0.93, 0.96])
def test_as_when_all_are_compared_with_all(similarity):
    random = np.random.default_rng(3)
    kinds = random.standard_normal((60, 16))
    vectors = kinds[random.integers(0, 60, 240)] + 0.25 * random.standard_normal((240, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    cosines = vectors @ vectors.T
    # No similarity lies so near to the threshold that the order of a sum decides.
    assert np.abs(cosines - similarity).min() > 1e-6
    taken: dict[int, int] = {}
    for image in range(240):
        if image not in taken:
            taken |= {int(mate): image for mate in np.flatnonzero(cosines[image] >= similarity) if mate not in taken}
    found = nearest(vectors, vectors, 17)
    groups = group(found.ids, found.scores, similarity)
    assert groups.first.tolist() == [taken[image] for image in range(240)]
    assert 60 < len(set(taken.values())) < 230
    np.testing.assert_allclose(groups.similarity, cosines[np.arange(240), groups.first], atol=1e-5)
