import numpy as np
import pytest

from fgvr import neighbours
from fgvr.neighbours import Plan, nearest, plan


def unit_vectors(rows, dim=16, seed=0, dtype=np.float32):
    vectors = np.random.default_rng(seed).standard_normal((rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)


def brute_force(queries, database, k):
    scores = queries.astype(np.float64) @ database.astype(np.float64).T
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(scores, ids, axis=1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("block", [7, 65_536])
def test_exact_search_is_that_of_numpy(dtype, block, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    vectors = unit_vectors(60, dtype=dtype)
    found = nearest(vectors, vectors, 5, own=np.arange(60))
    ids, scores = brute_force(vectors, vectors, 5)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    assert (found.method, found.recall) == ("exact", 1.0)


def test_the_image_itself_comes_before_its_duplicates_and_ties_go_by_row_number():
    vectors = unit_vectors(40)
    vectors[5:35] = vectors[4]  # 31 equal vectors: more than any list of neighbours holds
    found = nearest(vectors, vectors, 4, own=np.arange(40))
    np.testing.assert_array_equal(found.ids[:, 0], np.arange(40))
    for row in range(4, 35):
        others = found.ids[row, 1:]
        assert len(set(found.ids[row])) == 4
        assert ((others >= 4) & (others < 35)).all()
        assert (np.diff(others) > 0).all()
    np.testing.assert_allclose(found.scores, brute_force(vectors, vectors, 4)[1], atol=1e-5)
    few = vectors[:8]  # 4 equal vectors: any list holds them, and the order is that of the rows
    np.testing.assert_array_equal(nearest(few[:4], few, 7).ids, brute_force(few[:4], few, 7)[0])


def test_queries_that_are_not_in_the_database_have_no_self():
    database, queries = unit_vectors(30), unit_vectors(6, seed=1)
    own = np.array([-1, -1, 3, -1, -1, -1])
    queries[2] = database[3]
    found = nearest(queries, database, 3, own=own)
    ids, _ = brute_force(queries, database, 3)
    np.testing.assert_array_equal(found.ids, ids)


def test_fewer_images_than_k_leave_empty_places():
    vectors = unit_vectors(2)
    found = nearest(vectors, vectors, 5, own=np.arange(2))
    np.testing.assert_array_equal(found.ids, [[0, 1, -1, -1, -1], [1, 0, -1, -1, -1]])
    assert np.isneginf(found.scores[:, 2:]).all()
    assert nearest(vectors, vectors[:0], 2).ids.tolist() == [[-1, -1], [-1, -1]]
    assert nearest(vectors[:0], vectors, 2).ids.shape == (0, 2)


def test_vectors_that_are_not_finite_are_an_error_that_names_the_row():
    vectors = unit_vectors(10)
    vectors[7, 3] = np.nan
    with pytest.raises(ValueError, match="1 vectors of the queries are not finite, the first is row 7"):
        nearest(vectors, unit_vectors(10), 2)


def test_the_inverted_file_finds_what_exact_search_finds():
    centres = unit_vectors(50, dim=32)
    random = np.random.default_rng(1)
    vectors = centres[random.integers(0, 50, 4000)] + 0.1 * random.standard_normal((4000, 32))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    found = nearest(vectors, vectors, 5, own=np.arange(4000), how=Plan("ivf", lists=64))
    exact = nearest(vectors, vectors, 5, own=np.arange(4000), how=Plan("exact"))
    hits = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found.ids, exact.ids, strict=True)])
    assert found.recall >= 0.95
    assert hits >= 0.95
    np.testing.assert_array_equal(found.ids[:, 0], np.arange(4000))


def test_the_size_rule():
    # 2 · 80,000² · 512 = 6.6e12 operations: 60 s on two cores. A million images are 155 times as many.
    assert plan(80_000, 80_000, 512, threads=2).method == "exact"
    assert plan(1_000_000, 1_000_000, 512, threads=2) == Plan("ivf", lists=4000)


def test_faiss_threads_are_restored():
    import faiss

    before = faiss.omp_get_max_threads()
    nearest(unit_vectors(5), unit_vectors(5), 2, threads=1)
    assert faiss.omp_get_max_threads() == before
