"""Exact search where many vectors are nearly the same: the right rows, in bounded work and memory, ties in order."""

import numpy as np
import pytest
import torch

from fgvr.neighbours import exact as exact_module
from fgvr.neighbours.exact import Product, exact
from fgvr.neighbours.tiles import AllScores, Tiling, best_columns, pair_scores, row_scores

SMALL_TILES = Tiling(queries=13, columns=37, tiles=3, slab=150)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def strangers(count, seed, dim=96):
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


def copies(count, cosine, seed, dim=96):
    """Vectors whose cosines to each other are about `cosine`."""
    random = np.random.default_rng(seed)
    centre, noise = random.standard_normal(dim), random.standard_normal((count, dim))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    return unit(np.sqrt(cosine) * centre / np.linalg.norm(centre) + np.sqrt(1 - cosine) * noise)


def mixed(*parts):
    vectors = np.concatenate(parts)
    return vectors[np.random.default_rng(7).permutation(len(vectors))]


def half_equal():
    vectors = strangers(400, 3)
    vectors[np.random.default_rng(4).permutation(400)[:220]] = vectors[5]
    return vectors


DATA = {
    "cosine 0.92": lambda: copies(400, 0.92, 1),
    "cosine 0.99": lambda: copies(400, 0.99, 1),
    "cosine 0.9999": lambda: copies(400, 0.9999, 1),
    "half of them": lambda: mixed(copies(200, 0.99, 2), strangers(200, 3)),
    "five clusters": lambda: mixed(*(copies(80, 0.97, seed) for seed in range(5))),
    "a large and a tiny one": lambda: mixed(copies(370, 0.995, 1), copies(5, 0.99, 2), strangers(25, 3)),
    "equal ones": half_equal,
    "all equal": lambda: np.repeat(strangers(1, 0), 400, axis=0),
    "groups of four": lambda: mixed(*(copies(4, 0.98, seed) for seed in range(100))),
}


def truth(vectors, k):
    """In double precision, where sums of fp16 vectors are exact, rounded to fp32 once; ties by row number."""
    scores = (vectors.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(scores, ids, axis=1)


@pytest.mark.parametrize("tiling", [None, SMALL_TILES])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("name", DATA)
def test_it_is_brute_force_to_the_last_bit(name, dtype, tiling):
    vectors = DATA[name]()
    result = exact(vectors, vectors, 9, Product("cpu", dtype, tiling))
    ids, scores = truth(vectors, 9)
    np.testing.assert_array_equal(result.scores, scores)
    np.testing.assert_array_equal(result.ids, ids)


def test_near_copies_are_compared_by_products_and_strangers_one_by_one(monkeypatch):
    compared = []
    real = exact_module.pair_scores
    monkeypatch.setattr(exact_module, "pair_scores", lambda *a: compared.append(len(a[3])) or real(*a))
    crowd = copies(3000, 0.99, 1, dim=64)
    assert exact(crowd, crowd, 5, Product("cpu", "bfloat16")).unproven == 1.0
    assert sum(compared) == 0  # of 9 million pairs that all lie within the bound
    compared.clear()
    few = mixed(*(copies(40, 0.99, seed, dim=64) for seed in range(75)))
    assert exact(few, few, 5, Product("cpu", "bfloat16")).unproven > 0.9
    assert 0 < sum(compared) < 300_000


def test_memory_does_not_grow_with_the_square_of_the_copies():
    sizes = []
    real = AllScores.of
    tiling = Tiling(queries=16, columns=64, tiles=2, slab=10_000)

    def watched(self, queries, rows):
        scores = real(self, queries, rows)
        sizes.append(max(kept.numel() for kept in self._kept.values()))
        return scores

    vectors = copies(700, 0.999, 1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(AllScores, "of", watched)
        exact(vectors, vectors, 4, Product("cpu", "bfloat16", tiling))
    assert sizes
    assert max(sizes) == max(16 * 64, 64 * vectors.shape[1])  # one tile's scores, or its vectors


def test_a_similarity_is_the_same_number_however_it_is_computed():
    queries, database = (torch.from_numpy(copies(50, 0.9999, seed, dim=300)) for seed in (1, 1))
    queries = queries.float()
    whole = AllScores().of(queries, database.float()).clone()
    who, rows = (index.ravel() for index in torch.meshgrid(torch.arange(50), torch.arange(50), indexing="ij"))
    assert torch.equal(pair_scores(queries, database, who, rows), whole.ravel())
    assert torch.equal(row_scores(queries, database, rows.view(50, 50)), whole)
    shuffled = torch.randperm(300, generator=torch.Generator().manual_seed(0))  # another order of the sums
    assert torch.equal(AllScores().of(queries[:, shuffled], database.float()[:, shuffled]), whole)
    by_hand = [sum(float(a) * float(b) for a, b in zip(queries[3], database[4], strict=True))]
    assert whole[3, 4] == torch.tensor(by_hand, dtype=torch.float64).float()[0]


def test_of_equal_columns_the_first_are_the_best():
    scores = torch.tensor([[1.0, 3, 2, 3, 2, 2], [5, 5, 5, 5, 5, 5], [0, 1, 2, 3, 4, 5], [9, 1, 1, 1, 1, 8]])
    assert [sorted(row) for row in best_columns(scores, 3).tolist()] == [[1, 2, 3], [0, 1, 2], [3, 4, 5], [0, 1, 5]]
    assert best_columns(scores[:, :2], 3).tolist() == [[0, 1]] * 4
