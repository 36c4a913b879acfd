"""The nearest of all shards from the nearest of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fgvr.neighbours.found import NOBODY, Floats, Ids


def merge(results: Sequence[tuple[Ids, Floats]], k: int, own: Ids | None = None) -> tuple[Ids, Floats]:
    """The k best of several results over different database vectors: own first, then by similarity, then by id.

    `faiss.merge_knn_results` does it without an order of ties and without own rows.

    Args:
        results: ids int64 [N, k'] and similarities float32 [N, k'] of each; −1 and −inf in unused places.
        k: wanted, at most what the results have together.
        own: the id that is the query itself, int64 [N] or −1.
    """
    ids, scores = (np.concatenate(parts, axis=1) for parts in zip(*results, strict=True))
    others = np.ones(ids.shape, bool) if own is None else (ids != own[:, None]) | (ids == NOBODY)
    # Unused places have the least similarity, so they come last.
    order = np.lexsort((ids, -scores, others), axis=1)[:, :k]
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)
