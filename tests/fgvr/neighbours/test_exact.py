import subprocess
import sys

import numpy as np
import pytest
import torch

from fgvr.neighbours.exact import Product, exact, first_not_finite, torch_threads
from fgvr.neighbours.tiles import TileProduct, Tiling

SMALL_TILES = Tiling(queries=13, columns=37, tiles=3, slab=50)


def unit_vectors(rows, dim=24, seed=0, clusters=None, noise=0.3):
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((rows, dim))
    if clusters is not None:
        centres = random.standard_normal((clusters, dim))
        vectors = centres[random.integers(0, clusters, rows)] + noise * vectors
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def brute_force(queries, database, k):
    scores = queries.astype(np.float64) @ database.astype(np.float64).T
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(scores, ids, axis=1)


def same_neighbours(result, queries, database, k):
    """Ids may differ from those of double precision only where two similarities differ by less than fp32 can tell."""
    ids, scores = brute_force(queries, database, k)
    np.testing.assert_allclose(result.scores, scores, atol=2e-6)
    found = np.einsum("nd,nkd->nk", queries.astype(np.float64), database[result.ids].astype(np.float64))
    np.testing.assert_allclose(found, scores, atol=2e-6)
    assert all(len(set(row)) == k for row in result.ids.tolist())
    return float((result.ids == ids).mean())


@pytest.mark.parametrize("tiling", [None, SMALL_TILES])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_any_precision_and_any_tiles_give_the_result_of_brute_force(dtype, tiling):
    vectors = unit_vectors(700, clusters=6)
    result = exact(vectors[:171], vectors, 5, Product("cpu", dtype, tiling))
    assert same_neighbours(result, vectors[:171], vectors, 5) > 0.99


def test_vectors_in_single_precision_are_not_touched_and_threads_change_nothing():
    vectors = unit_vectors(700, clusters=6).astype(np.float32)
    before = vectors.copy()
    with torch_threads(3):
        result = exact(vectors, vectors, 5, Product("cpu", "bfloat16", SMALL_TILES))
        assert torch.get_num_threads() == 3
    np.testing.assert_array_equal(vectors, before)
    with torch_threads(1):
        alone = exact(vectors, vectors, 5, Product("cpu", "bfloat16", SMALL_TILES))
    np.testing.assert_array_equal(result.ids, alone.ids)
    np.testing.assert_array_equal(result.scores, alone.scores)
    same_neighbours(result, vectors, vectors, 5)


def test_the_second_pass_mends_what_rounding_hides():
    # 300 vectors within a cone so narrow that bf16 cannot tell their similarities apart.
    vectors = unit_vectors(300, dim=64, clusters=1, noise=0.02)
    result = exact(vectors, vectors, 10, Product("cpu", "bfloat16", SMALL_TILES))
    assert result.unproven > 0.9
    same_neighbours(result, vectors, vectors, 10)


def test_ties_are_in_the_order_of_the_rows_however_many_there_are():
    vectors = unit_vectors(200)
    vectors[10:150] = vectors[3]  # 141 equal vectors are more than there are candidates
    for dtype in ("float32", "bfloat16"):
        result = exact(vectors, vectors, 6, Product("cpu", dtype, SMALL_TILES))
        assert result.ids[3].tolist() == [3, 10, 11, 12, 13, 14]
        assert result.ids[80].tolist() == [3, 10, 11, 12, 13, 14]
        np.testing.assert_array_equal(result.ids, brute_force(vectors, vectors, 6)[0])


@pytest.mark.parametrize(("rows", "k"), [(3, 2), (40, 20)])  # in one tile, and where the last tile has empty places
def test_similarities_that_fp16_rounds_to_minus_zero_are_not_lost(rows, k):
    database = np.zeros((rows, 3), np.float32)
    database[:k] = -1e-4, 1, 0  # to the query 1e-4, 0, 1: -1e-8
    database[0], database[k:] = (0, 0.8, 0.6), (0, 0.99, -0.1)
    query = np.array([[1e-4, 0, 1]], np.float32)
    result = exact(query, database, k, Product("cpu", "float16", SMALL_TILES))
    assert result.ids.tolist() == [list(range(k))]


def test_queries_that_point_away_from_everything():
    database = np.abs(unit_vectors(120))
    result = exact(-database[:20], database, 4, Product("cpu", "bfloat16", SMALL_TILES))
    same_neighbours(result, -database[:20], database, 4)
    assert (result.scores < 0).all()


def test_as_many_neighbours_as_vectors():
    vectors = unit_vectors(9)
    result = exact(vectors, vectors, 9, Product("cpu", "bfloat16"))
    np.testing.assert_array_equal(result.ids, brute_force(vectors, vectors, 9)[0])


def test_a_memory_mapped_file_is_searched_like_an_array(tmp_path):
    vectors = unit_vectors(150)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    result = exact(mapped, mapped, 3, Product("cpu", "bfloat16", SMALL_TILES))
    np.testing.assert_array_equal(result.ids, exact(vectors, vectors, 3, Product()).ids)


def test_candidates_are_the_best_scores_of_the_product():
    queries, database = (torch.rand(5, 8, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    database = torch.cat([database, torch.rand(95, 8, generator=torch.Generator().manual_seed(2))])
    product = TileProduct(Tiling(5, 16, 7, 5), torch.float32, torch.device("cpu"), 100)
    found = product.candidates(queries, database, 12, first_row=1000)
    scores = queries @ database.T
    expected = scores.topk(12, dim=1)
    assert [sorted(row) for row in (found.rows - 1000).tolist()] == [sorted(row) for row in expected.indices.tolist()]
    torch.testing.assert_close(found.cutoff(torch.float32), expected.values[:, -1])


def test_rows_that_are_not_finite_are_counted():
    vectors = unit_vectors(10)
    assert first_not_finite(vectors) is None
    vectors[7, 3], vectors[9, 0] = np.nan, np.inf
    assert first_not_finite(vectors) == (2, 7)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["new", "old"])
def test_products_are_in_single_precision_whatever_the_process_has_set(way):
    """Both ways to ask for less, in processes of their own: they cannot be mixed, and cannot be undone."""
    script = """
import sys, numpy as np, torch
from fgvr.neighbours import exact
of = {"cuda": torch.backends.cuda.matmul, "cpu": torch.backends.mkldnn.matmul}
if sys.argv[1] == "new":
    of["cuda"].fp32_precision = "tf32"
else:
    torch.set_float32_matmul_precision("medium")
before = [settings.fp32_precision for settings in of.values()]
for device, settings in of.items():
    with exact._sums_in_fp32(device):
        print(settings.fp32_precision)
random = np.random.default_rng(0)
vectors = random.standard_normal((400, 64)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
found = exact.exact(vectors, vectors, 3, exact.Product("cpu", "float32"))
truth = np.sort(vectors.astype(float) @ vectors.astype(float).T)[:, ::-1][:, :3]
print(np.abs(found.scores - truth).max() < 1e-6)
print(before == [settings.fp32_precision for settings in of.values()])
"""
    done = subprocess.run([sys.executable, "-c", script, way], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ieee", "ieee", "True", "True"]
