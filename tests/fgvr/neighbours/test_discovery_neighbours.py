import numpy as np
import pytest

from fgvr.clip.vectors import embedding_rows
from fgvr.neighbours.discovery import discovery_vectors, labelled_neighbours
from fgvr.tables import Table, write_part


def unit(degrees):
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float16)


def all_of(count):
    return np.ones(count, bool)


def test_itself_first_then_the_nearest_labelled_ones():
    labelled = np.array([True, True, False, True])
    found = labelled_neighbours(unit([0, 10, 12, 30]), all_of(4), labelled, 3)
    assert found.ids.tolist() == [[0, 1, 3], [1, 0, 3], [1, 0, 3], [3, 1, 0]]  # 2 has no label: it is nobody's


def test_fewer_images_than_k_leave_places_empty():
    found = labelled_neighbours(unit([0, 10]), all_of(2), all_of(2), 5)
    assert found.ids.tolist() == [[0, 1, -1, -1, -1], [1, 0, -1, -1, -1]]
    assert np.isneginf(found.scores[:, 2:]).all()
    alone = labelled_neighbours(unit([0]), all_of(1), all_of(1), 3)
    assert alone.ids.tolist() == [[0, -1, -1]]


def test_images_without_a_vector_or_label_anywhere():
    found = labelled_neighbours(unit([0, 10, 20]), np.array([True, False, True]), all_of(3), 2)
    assert found.ids.tolist() == [[0, 2], [-1, -1], [2, 0]]
    nothing = labelled_neighbours(unit([0, 10]), all_of(2), np.zeros(2, bool), 2)
    assert nothing.ids.tolist() == [[-1, -1], [-1, -1]]
    nobody = labelled_neighbours(unit([0, 10]), np.zeros(2, bool), all_of(2), 2)
    assert nobody.ids.tolist() == [[-1, -1], [-1, -1]]


def test_copies_of_a_photo_are_one_neighbour():
    # 1, 2 and 3 are one photo; its first labelled copy is 2.
    vectors = unit([0, 20, 20, 20, 50])
    labelled = np.array([True, False, True, True, True])
    found = labelled_neighbours(vectors, all_of(5), labelled, 4)
    assert found.ids.tolist() == [
        [0, 2, 4, -1],
        [2, 0, 4, -1],  # without a label of its own it takes that of its copy
        [2, 0, 4, -1],
        [3, 0, 4, -1],  # itself, and none of its copies
        [4, 2, 0, -1],
    ]
    assert found.scores[1:4, 0] == pytest.approx(1, abs=1e-3)


def test_only_copies_have_no_neighbours():
    found = labelled_neighbours(unit([5] * 30), all_of(30), all_of(30), 11)
    assert found.ids[:, 0].tolist() == list(range(30))
    assert (found.ids[:, 1:] == -1).all()


def test_a_vector_that_is_not_finite_is_none(tmp_path):
    features = np.array([[1, 0], [np.nan, 0], [0, np.inf], [0, 1]], np.float32)
    table = Table(str(tmp_path), "embeddings", "f", 4, 0, 1, 4, 0.0)
    write_part(table.uri, 0, embedding_rows(np.arange(4), features, [None] * 4))
    vectors, embedded = discovery_vectors(table, np.array([0, 1, 2, 3, 9]))
    assert embedded.tolist() == [True, False, False, True, False]
    assert labelled_neighbours(vectors, embedded, all_of(5), 2).ids[:4].tolist() == [[0, 3], [-1, -1], [-1, -1], [3, 0]]
