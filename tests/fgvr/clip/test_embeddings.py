import numpy as np
import pytest

from fgvr import tables
from fgvr.clip.vectors import embedding_rows, read_vectors
from fgvr.schemas import Failure, Reason
from fgvr.tables import Table


def write(folder, ids, features, failures, rows_per_part):
    rows = embedding_rows(np.asarray(ids), features, failures)
    parts = range(0, len(ids), rows_per_part)
    for number, start in enumerate(parts):
        tables.write_part(str(folder), number, rows.slice(start, rows_per_part))
    failed = sum(failure is not None for failure in failures)
    Table(str(folder), "embeddings", "x", len(ids), failed, len(parts), rows_per_part, 0.0).commit()
    return Table.load(str(folder))


@pytest.mark.parametrize("rows_per_part", [1, 3, 100])
def test_vectors_come_back_in_the_order_asked_for(tmp_path, rows_per_part):
    features = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
    failures = [None] * 10
    failures[3] = Failure(Reason.CORRUPT, "truncated")
    ids = np.arange(10) * 2  # only some images were embedded
    table = write(tmp_path, ids, features, failures, rows_per_part)
    vectors, found = read_vectors(table, np.array([18, 6, 0, 7, 99, 4]))
    assert found.tolist() == [True, False, True, False, False, True]
    np.testing.assert_array_equal(vectors[[0, 2, 5]], features[[9, 0, 2]].astype(np.float16))
    assert not vectors[[1, 3, 4]].any()


def test_a_failed_row_keeps_its_id_and_reason(tmp_path):
    failures = [None, Failure(Reason.NOT_FOUND, "gone")]
    rows = embedding_rows(np.array([4, 5]), np.ones((2, 3), np.float32), failures)
    assert rows["error"].to_pylist() == [None, {"reason": "not_found", "detail": "gone"}]
    assert rows["vector"].to_pylist() == [np.ones(3, "<f2").tobytes(), None]
    assert rows.schema.metadata == {b"dim": b"3", b"dtype": b"float16"}


def test_no_images_and_no_vectors(tmp_path):
    table = write(tmp_path, [0], np.ones((1, 2), np.float32), [Failure(Reason.CORRUPT, "")], 10)
    assert read_vectors(table, np.array([], np.int64))[0].shape == (0, 2)
    assert read_vectors(table, np.array([0]))[1].tolist() == [False]
