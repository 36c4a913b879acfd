"""What a search for nearest vectors takes and gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float16] | npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

NOBODY = -1  # in a place for which the database held too few vectors


@dataclass(frozen=True)
class Neighbours:
    """Nearest database rows of every query, best first; −1 where the database held fewer than k.

    Attributes:
        ids: database row numbers, int64 [N, k].
        scores: cosine similarities, float32 [N, k]; −inf where `ids` is −1.
        method: "exact" or "ivf".
        recall: share of the true k nearest that was found, on a sample of the queries; 1 for exact search.
        facts: how it was searched and why, JSON types: for a table's metadata.
    """

    ids: Ids
    scores: Floats
    method: str
    recall: float
    facts: dict[str, Any] = field(default_factory=dict)


def nobody(queries: int, k: int) -> tuple[Ids, Floats]:
    """Ids and scores of queries that have found nothing yet."""
    return np.full((queries, k), NOBODY, np.int64), np.full((queries, k), -np.inf, np.float32)
