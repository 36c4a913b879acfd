"""Nearest images by the cosine similarity of their CLIP vectors, with FAISS.

Small sets are searched exactly; larger ones on a CPU through an inverted file (IVF-Flat) whose recall against
exact search is measured on a sample and raised to `MIN_RECALL`. `plan` is the one place that decides.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float16] | npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
_log = logging.getLogger(__name__)

EXACT_SECONDS = 60.0  # exact search up to about this long
FLOPS_PER_CORE = 55e9  # fp32 products with selection, measured with faiss.knn on server cores
MIN_RECALL = 0.95
RECALL_QUERIES = 10_000
SPARE = 8  # more neighbours than asked for: similarities are computed again and ties put in order among these
BLOCK = 65_536  # vectors converted to fp32 at once


@dataclass(frozen=True)
class Plan:
    """How to search: `exact`, or `ivf` with so many inverted lists."""

    method: Literal["exact", "ivf"]
    lists: int = 0


@dataclass(frozen=True)
class Neighbours:
    """Nearest database rows of every query, best first; −1 where the database held fewer than k.

    Attributes:
        ids: database row numbers, int64 [N, k].
        scores: cosine similarities, float32 [N, k]; −inf where `ids` is −1.
        method: "exact" or "ivf".
        recall: share of the true k nearest that was found, on a sample of the queries; 1 for exact search.
    """

    ids: Ids
    scores: Floats
    method: str
    recall: float


def plan(queries: int, database: int, dim: int, threads: int) -> Plan:
    """Exact while 2·N·M·d operations take at most `EXACT_SECONDS` on so many cores; else IVF with about 4√M lists."""
    seconds = 2.0 * queries * database * dim / (FLOPS_PER_CORE * max(threads, 1))
    return Plan("exact") if seconds <= EXACT_SECONDS else Plan("ivf", lists=int(4 * math.sqrt(database)))


def nearest(
    queries: Vectors, database: Vectors, k: int, *, own: Ids | None = None, threads: int = 1, how: Plan | None = None
) -> Neighbours:
    """The k nearest database vectors of each query.

    Args:
        queries: L2-normalised, [N, d].
        database: L2-normalised, [M, d].
        k: at least 1.
        own: int64 [N], the database row that *is* the query, or −1; it always comes first, before exact duplicates.
        threads: cores that FAISS may use.
        how: overrules `plan`.

    Equal similarities are in the order of the row numbers; of more than `SPARE` exact duplicates in the last places
    FAISS chooses which are returned, the same ones every time. Raises ValueError for vectors that are not finite
    or do not fit together.
    """
    if queries.shape[1:] != database.shape[1:] or k < 1:
        raise ValueError(f"cannot search {database.shape} for the {k} nearest of {queries.shape}")
    for what, vectors in (("queries", queries), ("database", database)):
        bad = [at + i for at, block in _blocks(vectors) for i in np.flatnonzero(~np.isfinite(block).all(axis=1))]
        if bad:
            raise ValueError(f"{len(bad)} vectors of the {what} are not finite, the first is row {bad[0]}")
    how = how or plan(len(queries), len(database), queries.shape[1], threads)
    if not len(database) or not len(queries):
        return Neighbours(np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, np.float32), "exact", 1.0)
    with _threads(threads):
        wanted = min(k + SPARE, len(database))
        if how.method == "exact":
            found, recall = _exact(queries, database, wanted), 1.0
        else:
            found, recall = _inverted_file(queries, database, wanted, k, lists=how.lists, threads=threads)
    ids, scores = _ordered(queries, database, found, k, own)
    return Neighbours(ids, scores, how.method, recall)


def _exact(queries: Vectors, database: Vectors, k: int) -> Ids:
    """Row numbers of the k nearest, int64 [N, k], block by block so that only blocks are ever in fp32."""
    import faiss

    best = np.full((len(queries), k), -np.inf, np.float32)
    ids = np.full((len(queries), k), -1, np.int64)
    for at, rows in _blocks(queries):
        here = slice(at, at + len(rows))
        for start, block in _blocks(database):
            scores, found = faiss.knn(rows, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
            scores, found = np.hstack([best[here], scores]), np.hstack([ids[here], found + start])
            keep = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            best[here] = np.take_along_axis(scores, keep, axis=1)
            ids[here] = np.take_along_axis(found, keep, axis=1)
    return ids


def _inverted_file(
    queries: Vectors, database: Vectors, wanted: int, k: int, *, lists: int, threads: int
) -> tuple[Ids, float]:
    """Row numbers [N, wanted] through IVF-Flat, and the measured recall of the first k."""
    import faiss

    lists = max(1, min(lists, len(database) // 39))  # FAISS wants 39 training vectors a list
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(database.shape[1]), database.shape[1], lists, faiss.METRIC_INNER_PRODUCT
    )
    random = np.random.default_rng(0)
    sample = np.sort(random.permutation(len(database))[: 64 * lists])
    index.train(database[sample].astype(np.float32))
    for _, block in _blocks(database):
        index.add(block)
    affordable = EXACT_SECONDS * FLOPS_PER_CORE * threads / (2.0 * database.size)
    checked = np.sort(random.permutation(len(queries))[: int(np.clip(affordable, 100, RECALL_QUERIES))])
    some = queries[checked].astype(np.float32)
    truth = _exact(some, database, min(k, wanted))
    index.nprobe = min(8, lists)
    while True:
        recall = _recall(truth, _search_lists(index, some, wanted))
        if recall >= MIN_RECALL or index.nprobe == lists:
            break
        index.nprobe = min(2 * index.nprobe, lists)
    _log.info("neighbours: IVF with %d lists, %d probed, recall %.4f", lists, index.nprobe, recall)
    ids = np.empty((len(queries), wanted), np.int64)
    for at, rows in _blocks(queries):
        ids[at : at + len(rows)] = _search_lists(index, rows, wanted)
    return ids, recall


def _search_lists(index: Any, queries: Floats, k: int) -> Ids:
    """Row numbers int64 [n, k] from the probed lists, −1 where they held fewer; one dense product a list."""
    from faiss.contrib.big_batch_search import big_batch_search

    # It reports every list on stdout, whatever `verbose` says.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        scores, found = big_batch_search(index, queries, k)
    return np.where(scores > np.finfo(np.float32).min, found, -1)


def _recall(truth: Ids, found: Ids) -> float:
    return float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(truth, found, strict=True)]))


def _ordered(queries: Vectors, database: Vectors, found: Ids, k: int, own: Ids | None) -> tuple[Ids, Floats]:
    """The best k of `found`: itself first, then by similarity, then by row number."""
    ids = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for at in range(0, len(queries), BLOCK):
        here = slice(at, at + BLOCK)
        candidates = found[here]
        if own is not None:  # its row may be missing from `found` when it has many duplicates
            itself = own[here, None]
            candidates = np.hstack([itself, np.where(candidates == itself, -1, candidates)])
        # One dot product a pair, in one order of summation: equal vectors get exactly equal similarities.
        pairs = np.stack([_dots(queries[here], database, column) for column in candidates.T], axis=1)
        first = np.where((own is not None) & (np.arange(candidates.shape[1]) == 0) & (candidates >= 0), 0, 1)
        order = np.lexsort((candidates, -pairs, first), axis=1)[:, :k]
        width = order.shape[1]
        ids[here, :width] = np.take_along_axis(candidates, order, axis=1)
        scores[here, :width] = np.take_along_axis(pairs, order, axis=1)
    return ids, scores


def _dots(queries: Vectors, database: Vectors, rows: Ids) -> Floats:
    """Similarity of each query to one database row, −inf where the row is −1: float32 [n]."""
    products = np.einsum("nd,nd->n", queries.astype(np.float32), database[rows].astype(np.float32))
    return np.where(rows >= 0, products, -np.inf).astype(np.float32)


def _blocks(vectors: Vectors) -> Iterator[tuple[int, Floats]]:
    for start in range(0, len(vectors), BLOCK):
        yield start, np.ascontiguousarray(vectors[start : start + BLOCK], dtype=np.float32)


@contextmanager
def _threads(count: int) -> Iterator[Any]:
    """FAISS on so many threads, and on as many as before afterwards."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(max(1, count))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
