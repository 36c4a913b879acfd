import re

import numpy as np
import pytest

from fgvr.neighbours import Plan, Wanted, inverted_file, nearest
from fgvr.neighbours.inverted_file import RecallTooLow


def unit_vectors(rows, dim=16, seed=0, dtype=np.float32):
    vectors = np.random.default_rng(seed).standard_normal((rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)


def brute_force(queries, database, k):
    scores = queries.astype(np.float64) @ database.astype(np.float64).T
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(scores, ids, axis=1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_exact_search_is_that_of_numpy(dtype):
    vectors = unit_vectors(60, dtype=dtype)
    found = nearest(vectors, vectors, 5, own=np.arange(60))
    ids, scores = brute_force(vectors, vectors, 5)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    assert (found.method, found.recall) == ("exact", 1.0)


def test_the_image_itself_comes_before_its_duplicates_and_ties_go_by_row_number():
    vectors = unit_vectors(40)
    vectors[5:35] = vectors[4]  # 31 equal vectors
    found = nearest(vectors, vectors, 4, own=np.arange(40))
    ids, scores = brute_force(vectors, vectors, 4)
    expected = [[row, *[other for other in ids[row].tolist() if other != row][:3]] for row in range(40)]
    assert found.ids.tolist() == expected
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)


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


def clustered(count, dim=32, noise=0.1):
    centres = unit_vectors(50, dim=dim)
    random = np.random.default_rng(1)
    vectors = centres[random.integers(0, 50, count)] + noise * random.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def test_the_inverted_file_finds_what_exact_search_finds():
    vectors = clustered(4000)
    found = nearest(vectors, vectors, 5, own=np.arange(4000), how=Plan("ivf", lists=64))
    exact = nearest(vectors, vectors, 5, own=np.arange(4000), how=Plan("exact"))
    hits = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found.ids, exact.ids, strict=True)])
    assert found.recall >= 0.95
    assert hits == pytest.approx(found.recall, abs=0.01)
    assert found.facts["recall"] == found.recall
    np.testing.assert_array_equal(found.ids[:, 0], np.arange(4000))


def test_more_lists_are_probed_until_the_recall_is_reached_or_it_stops():
    vectors = unit_vectors(4000, dim=64)  # without any clusters
    low = nearest(vectors, vectors, 5, how=Plan("ivf", lists=64), wanted=Wanted(recall=0.1)).facts
    high = nearest(vectors, vectors, 5, how=Plan("ivf", lists=64), wanted=Wanted(recall=0.5)).facts
    assert low["probed"] < high["probed"]
    assert high["recall"] >= 0.5
    with pytest.raises(RecallTooLow, match=r"probes 16 of its 64 lists .* Set neighbours.method to exact"):
        nearest(vectors, vectors, 5, how=Plan("ivf", lists=64), wanted=Wanted(recall=0.99))


def loose_groups(groups, dim=64):
    """Strangers of four near-copies each: three of a vector's neighbours are near, the others anywhere."""
    random = np.random.default_rng(2)
    vectors = np.repeat(random.standard_normal((groups, dim)), 4, axis=0)
    vectors += 0.2 * random.standard_normal(vectors.shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def test_where_lists_find_too_few_it_is_searched_exactly_if_that_is_affordable(caplog):
    vectors = loose_groups(600)
    with caplog.at_level("WARNING"):
        found = nearest(vectors, vectors, 9, own=np.arange(2400), wanted=Wanted("ivf"))
    ids, scores = brute_force(vectors, vectors, 9)
    np.testing.assert_array_equal(found.scores, scores.astype(np.float32))
    assert (found.ids == ids).mean() > 0.999  # double precision parts what fp32 holds for equal
    assert (found.method, found.recall, found.facts["method"], found.facts["recall"]) == ("exact", 1.0, "exact", 1.0)
    assert found.facts["lists"] == 0
    told = found.facts["reasons"][-1]
    assert re.fullmatch(
        r"(\d+) of \d+ lists find 0\.\d+ of the true neighbours and neighbours\.recall asks for 0\.95: "
        r"searched exactly instead, about 0 s",
        told,
    )
    assert told in caplog.text


def test_where_exact_search_takes_too_long_the_message_names_the_fields():
    vectors = loose_groups(600)
    fields = r"neighbours\.method to exact, raise neighbours\.exact_seconds .* lower neighbours\.recall\. Exact search"
    with pytest.raises(RecallTooLow, match=fields):
        nearest(vectors, vectors, 9, wanted=Wanted("ivf", exact_seconds=1e-6))


def test_recall_counts_equally_near_vectors_alike():
    truth = np.array([[0.9, 0.8, 0.7], [0.9, 0.8, 0.8]], np.float32)
    found = np.array([[0.9, 0.7, 0.6], [0.8, 0.8, -np.inf]], np.float32)
    assert inverted_file.recall_of(found, truth) == pytest.approx(4 / 6)


def test_threads_are_restored():
    import faiss
    import torch

    before = faiss.omp_get_max_threads(), torch.get_num_threads()
    nearest(unit_vectors(5), unit_vectors(5), 2, threads=1)
    assert (faiss.omp_get_max_threads(), torch.get_num_threads()) == before
