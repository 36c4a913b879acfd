import numpy as np
import pyarrow as pa

from fgvr import schemas
from fgvr.candidates.sets import CandidateSets, candidate_rows, disambiguate, read_sets

SETS = CandidateSets(
    np.array([[4, 7], [-1, -1], [2, -1]], np.int32), np.array([[0.25, 0.75], [0, 0], [1, 0]], np.float32)
)


def test_rows_by_hand():
    rows = candidate_rows(
        np.array([3, 5, 9]),
        np.array([[3, 9, 5], [5, -1, -1], [9, 3, -1]]),
        np.array([[1, 0.5, 0.25], [1, -np.inf, -np.inf], [1, 0.5, -np.inf]], np.float32),
        SETS,
    )
    assert rows.schema.equals(schemas.CANDIDATES)
    assert rows.to_pylist() == [
        {
            "image_id": 3,
            "neighbour_ids": [3, 9, 5],
            "neighbour_scores": [1.0, 0.5, 0.25],
            "label_ids": [4, 7],
            "weights": [0.25, 0.75],
        },
        {"image_id": 5, "neighbour_ids": [5], "neighbour_scores": [1.0], "label_ids": [], "weights": []},
        {"image_id": 9, "neighbour_ids": [9, 3], "neighbour_scores": [1.0, 0.5], "label_ids": [2], "weights": [1.0]},
    ]


def test_sets_survive_the_table_in_parts_too():
    rows = candidate_rows(np.array([3, 5, 9]), np.array([[3], [5], [9]]), np.ones((3, 1), np.float32), SETS)
    for table in (rows, pa.concat_tables([rows.slice(0, 1), rows.slice(1, 2)])):
        found = read_sets(table)
        np.testing.assert_array_equal(found.label_ids, SETS.label_ids)
        np.testing.assert_array_equal(found.weights, SETS.weights)
    tail = read_sets(rows.slice(1, 2))  # offsets of a slice do not start at 0
    np.testing.assert_array_equal(tail.label_ids, [[-1], [2]])
    assert len(read_sets(rows.slice(0, 0))) == 0


def test_the_heaviest_candidate_is_the_label():
    rows = candidate_rows(np.array([3, 5, 9]), np.array([[3], [5], [9]]), np.ones((3, 1), np.float32), SETS)
    found = disambiguate(rows, np.array([[0.875, 0.125], [1, 0]], np.float32))
    assert found.schema.equals(schemas.DISAMBIGUATED)
    assert found.to_pylist() == [
        {"image_id": 3, "label_ids": [4, 7], "weights": [0.875, 0.125], "label_id": 4},
        {"image_id": 5, "label_ids": [], "weights": [], "label_id": None},
        {"image_id": 9, "label_ids": [2], "weights": [1.0], "label_id": 2},
    ]
