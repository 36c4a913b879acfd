"""Search by inverted file (FAISS's IVF-Flat), probing as many lists as the required recall needs.

Queries are grouped by list, so that each list costs one dense product (`faiss.contrib.big_batch_search`). Recall is
measured against exact search on a sample of the queries before the others are searched; the number of probed lists is
doubled until it suffices. If they would cost as much as exact search, the search stops with an error.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fgvr.arrays import Floats, Ids
from fgvr.errors import UserError
from fgvr.neighbours.exact import Product, exact, tensor
from fgvr.neighbours.found import Vectors, nobody
from fgvr.neighbours.plan import TRAINING_ROUNDS, TRAINING_VECTORS
from fgvr.neighbours.tiles import in_order, row_scores

log = logging.getLogger(__name__)

BLOCK = 65_536  # vectors converted to fp32 per step
RECALL_QUERIES = 10_000
SAMPLE_SHARE = 0.02  # of the queries: so measuring costs at most this share of exact search
LEAST_SAMPLE = 1000
SPARE = 8  # additional neighbours, among which similarities are recomputed and ties ordered
FIRST_PROBED = 1
SAME = 1e-6  # similarities that differ by less count as equal


class RecallTooLow(UserError):
    """An inverted file cannot reach the required recall at a sensible cost."""


@dataclass
class InvertedFile:
    """A trained and filled index, the number of lists it probes, and the measured recall of the first k."""

    index: Any
    recall: float = 1.0

    def search(self, queries: Vectors, database: Vectors, k: int) -> tuple[Ids, Floats]:
        """The k nearest it finds, ordered by similarity and then row number: int64 and float32 [N, k]."""
        ids, scores = nobody(len(queries), k)
        vectors = tensor(database)
        for at in range(0, len(queries), BLOCK):
            rows = np.ascontiguousarray(queries[at : at + BLOCK], dtype=np.float32)
            found = tensor(_search_lists(self.index, rows, k + SPARE))
            block = in_order(found, row_scores(tensor(rows), vectors, found), k)
            ids[at : at + len(rows)], scores[at : at + len(rows)] = (part.numpy() for part in block)
        return ids, scores


def build(database: Vectors, lists: int) -> InvertedFile:
    """Train the lists on a sample of `database` [M, d] and add all vectors to them."""
    import faiss

    lists = max(1, min(lists, len(database) // TRAINING_VECTORS))
    dim = database.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.max_points_per_centroid = TRAINING_ROUNDS, TRAINING_VECTORS
    random = np.random.default_rng(0)
    sample = np.sort(random.permutation(len(database))[: TRAINING_VECTORS * lists])
    index.train(np.ascontiguousarray(database[sample], dtype=np.float32))
    for at in range(0, len(database), BLOCK):
        index.add(np.ascontiguousarray(database[at : at + BLOCK], dtype=np.float32))
    index.nprobe = min(FIRST_PROBED, lists)
    return InvertedFile(index)


def tune(built: InvertedFile, queries: Vectors, database: Vectors, k: int, *, recall: float, product: Product) -> None:
    """Increase the number of probed lists until the recall of the first k, on a sample of `queries`, reaches `recall`.

    Raises:
        RecallTooLow: that would probe over a quarter of the lists, which costs as much as exact search.
    """
    checked = recall_sample(queries)
    truth = exact(checked, database, k, product).scores
    lists = built.index.nlist
    most = max(lists // 4, min(8, lists))
    while True:
        built.recall = recall_of(built.search(checked, database, k)[1], truth)
        log.info("neighbours: %d of %d lists probed, recall %.4f", built.index.nprobe, lists, built.recall)
        if built.recall >= recall or built.index.nprobe == lists:
            return
        if built.index.nprobe >= most:
            raise RecallTooLow(
                f"neighbours: an inverted file that probes {built.index.nprobe} of its {lists} lists finds "
                f"{built.recall:.3f} of the true neighbours, and neighbours.recall asks for {recall:g}; more lists "
                "would take as long as exact search. Set neighbours.method to exact, raise neighbours.exact_seconds "
                "(five times as long is taken where lists do not suffice), or lower neighbours.recall"
            )
        built.index.nprobe = min(2 * built.index.nprobe, most)


def recall_sample(queries: Vectors) -> Vectors:
    """A sample of 1,000 to 10,000 queries, on which recall is measured against exact search."""
    wanted = int(np.clip(SAMPLE_SHARE * len(queries), LEAST_SAMPLE, RECALL_QUERIES))
    chosen = np.sort(np.random.default_rng(1).permutation(len(queries))[:wanted])
    return queries[chosen]


def recall_of(found: Floats, truth: Floats) -> float:
    """Share of the k nearest that were found; equally near ones are interchangeable.

    Args:
        found: similarities of the rows found, descending, float32 [n, k].
        truth: similarities of the rows that exact search finds, float32 [n, k].
    """
    return float((found >= truth[:, -1:] - SAME).mean())


def _search_lists(index: Any, queries: Floats, k: int) -> Ids:
    """Row numbers int64 [n, k] from the probed lists, −1 if they held fewer; one dense product per list."""
    from faiss.contrib.big_batch_search import big_batch_search

    # FAISS reports every list on stdout, whatever `verbose` says.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        scores, found = big_batch_search(index, queries, k, method="pairwise_distances")
    return np.where(scores > np.finfo(np.float32).min, found, -1)


@contextmanager
def faiss_threads(count: int) -> Iterator[None]:
    """Run FAISS on `count` threads, and restore the previous number afterwards."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(max(1, count))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
