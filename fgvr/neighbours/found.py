"""Input and output types of a nearest-neighbour search, and merging the results of shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fgvr.arrays import Floats, Ids

Vectors = npt.NDArray[np.float16] | npt.NDArray[np.float32]

NOBODY = -1  # in a position for which the database had too few vectors


@dataclass(frozen=True)
class Neighbours:
    """Nearest database rows of every query, best first; −1 if the database had fewer than k.

    Attributes:
        ids: database row numbers, int64 [N, k].
        scores: cosine similarities, float32 [N, k]; −inf where `ids` is −1.
        method: "exact" or "ivf".
        recall: share of the true k nearest that was found, on a sample of the queries; 1 for exact search.
        facts: how and why it was searched this way, JSON types: for a table's metadata.
    """

    ids: Ids
    scores: Floats
    method: str
    recall: float
    facts: dict[str, Any] = field(default_factory=dict)


def nobody(queries: int, k: int) -> tuple[Ids, Floats]:
    """Ids and scores of queries that have found nothing yet."""
    return np.full((queries, k), NOBODY, np.int64), np.full((queries, k), -np.inf, np.float32)


# Merging the nearest rows of several shards.


def merge(results: Sequence[tuple[Ids, Floats]], k: int, own: Ids | None = None) -> tuple[Ids, Floats]:
    """The k best of several results over different database vectors: own first, then by similarity, then by id.

    `faiss.merge_knn_results` does this without an order for ties and without own rows.

    Args:
        results: ids int64 [N, k'] and similarities float32 [N, k'] of each; −1 and −inf in unused positions.
        k: number of neighbours wanted, at most the width of all results together.
        own: the id of the query itself, int64 [N], or −1.
    """
    ids, scores = (np.concatenate(parts, axis=1) for parts in zip(*results, strict=True))
    others = np.ones(ids.shape, bool) if own is None else (ids != own[:, None]) | (ids == NOBODY)
    # Unused positions have the lowest similarity, so they come last.
    order = np.lexsort((ids, -scores, others), axis=1)[:, :k]
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)
