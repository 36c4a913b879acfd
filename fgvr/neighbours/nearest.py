"""Nearest images by the cosine similarity of their CLIP vectors, searched in this process."""

from __future__ import annotations

import logging

import numpy as np

from fgvr.arrays import Floats, Ids
from fgvr.neighbours import inverted_file
from fgvr.neighbours.exact import Product, exact, first_not_finite, torch_threads
from fgvr.neighbours.found import NOBODY, Neighbours, Vectors, nobody
from fgvr.neighbours.inverted_file import InvertedFile, RecallTooLow, faiss_threads
from fgvr.neighbours.machine import this_machine
from fgvr.neighbours.plan import DEFAULT, Plan, Size, Wanted, plan

log = logging.getLogger(__name__)

SMALL = 2e10  # operations that take under a second on any machine: not worth measuring


def nearest(
    queries: Vectors,
    database: Vectors,
    k: int,
    *,
    own: Ids | None = None,
    threads: int = 1,
    how: Plan | None = None,
    wanted: Wanted = DEFAULT,
    built: InvertedFile | None = None,
    finite: bool = False,
) -> Neighbours:
    """The k nearest database vectors of each query.

    Args:
        queries: L2-normalised, [N, d]; may be memory-mapped, as may `database`.
        database: L2-normalised, [M, d].
        k: at least 1.
        own: int64 [N], the database row that *is* the query, or −1; it always comes first, before exact duplicates.
        threads: number of cores that may be used.
        how: a plan that replaces that of `plan`.
        wanted: what the search must achieve and may cost.
        built: an inverted file of the database that was built and tuned before.
        finite: the vectors are known to be finite, so they are not checked, which takes 20 s for ten million.

    Equal similarities are ordered by row number. Raises ValueError for vectors that are not finite or do not fit
    together, and RecallTooLow if an inverted file finds too few and the plan does not fall back to exact search.
    """
    check_shapes(queries, database, k)
    if not finite:
        check_finite(queries, database)
    size = Size(len(queries), len(database), queries.shape[1])
    if how is None and wanted.method == "auto" and size.operations < SMALL:
        how = Plan("exact", reasons=("so few vectors that it takes less than a second",))
    elif how is None:
        how = plan(size, this_machine("cpu", threads), wanted)
        log.info("neighbours: %s", "; ".join(how.reasons))
    if not size.database or not size.queries:
        return Neighbours(*nobody(len(queries), k), "exact", 1.0, how.facts())
    most = min(k, len(database))
    reached = 1.0
    with torch_threads(threads), faiss_threads(threads):
        if how.method == "ivf" and built is None:
            how, built = built_or_exactly(how, queries, database, most, recall=wanted.recall, product=how.product)
        facts = how.facts()
        if built is None or how.method == "exact":
            result = exact(queries, database, most, how.product)
            ids, scores = result.ids, result.scores
            facts["second_pass"] = result.unproven
        else:
            ids, scores = built.search(queries, database, most)
            reached = built.recall
            facts |= {"lists": built.index.nlist, "probed": built.index.nprobe}
    facts["recall"] = reached
    if own is not None:
        ids, scores = itself_first(ids, scores, own, queries, database)
    missing = ((0, 0), (0, k - most))
    ids = np.pad(ids, missing, constant_values=NOBODY)
    return Neighbours(ids, np.pad(scores, missing, constant_values=-np.inf), how.method, reached, facts)


def built_or_exactly(
    how: Plan, queries: Vectors, database: Vectors, k: int, *, recall: float, product: Product
) -> tuple[Plan, InvertedFile | None]:
    """The plan's inverted file, tuned; or, if it finds too few, None and a plan for exact search.

    Args:
        how: the plan, which uses an inverted file.
        queries: [N, d]; a sample of them is searched.
        database: [M, d].
        k: number of neighbours wanted.
        recall: required recall.
        product: product for the exact search that measures the recall.

    Raises:
        RecallTooLow: it finds too few, and exact search would take too long.
    """
    built = inverted_file.build(database, how.lists)
    try:
        inverted_file.tune(built, queries, database, k, recall=recall, product=product)
    except RecallTooLow as error:
        if not how.falls_back:
            if not how.exact_seconds:
                raise
            raise RecallTooLow(f"{error}. Exact search takes about {how.exact_seconds:,.0f} s here") from None
        why = (
            f"{built.index.nprobe} of {built.index.nlist} lists find {built.recall:.3f} of the true neighbours and "
            f"neighbours.recall asks for {recall:g}"
        )
        exact_plan = how.exactly(why)
        log.warning("neighbours: %s", exact_plan.reasons[-1])
        return exact_plan, None
    return how, built


def check_shapes(queries: Vectors, database: Vectors, k: int) -> None:
    """Raise ValueError for shapes or k that make no sense."""
    if queries.shape[1:] != database.shape[1:] or k < 1:
        raise ValueError(f"cannot search {database.shape} for the {k} nearest of {queries.shape}")


def check_finite(queries: Vectors, database: Vectors) -> None:
    """Raise ValueError for vectors with a NaN or an infinity, which have no nearest neighbours."""
    for what, vectors in (("queries", queries), ("database", database)):
        bad = first_not_finite(vectors)
        if bad is not None:
            raise ValueError(f"{bad[0]} vectors of the {what} are not finite, the first is row {bad[1]}")


def itself_first(ids: Ids, scores: Floats, own: Ids, queries: Vectors, database: Vectors) -> tuple[Ids, Floats]:
    """Each query's own row moved to the front; if it was not among the others, the last one is dropped.

    Args:
        ids: rows, nearest first, int64 [N, k].
        scores: their similarities, float32 [N, k].
        own: int64 [N], a database row or −1.
        queries: [N, d].
        database: [M, d].
    """
    ids, scores = ids.copy(), scores.copy()
    elsewhere = np.flatnonzero((own != NOBODY) & (ids[:, 0] != own))
    for row in elsewhere.tolist():
        places = np.flatnonzero(ids[row] == own[row])
        place = int(places[0]) if len(places) else ids.shape[1] - 1
        vector = database[own[row]].astype(np.float64)
        similarity = scores[row, place] if len(places) else np.float32(queries[row].astype(np.float64) @ vector)
        ids[row, : place + 1] = [own[row], *ids[row, :place]]
        scores[row, : place + 1] = [similarity, *scores[row, :place]]
    return ids, scores
