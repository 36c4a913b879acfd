"""Similarities of single pairs, summed in one order, and rows of them put in order.

Every similarity that leaves a search is computed here, in fp32 from the stored vectors: equal vectors get exactly equal
similarities whatever block they were found in, so that the order of ties is that of the row numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fgvr.neighbours.found import NOBODY

PAIR_ELEMENTS = {"cpu": 2**17, "cuda": 2**27}  # gathered at once: what stays in a core's cache, or half a gigabyte
ROUNDING = 2.0**-23  # of fp32 sums, times the number of their terms: a bound for unit vectors


def pair_scores(queries: Tensor, database: Tensor, who: Tensor, rows: Tensor) -> Tensor:
    """Similarity of query `who[i]` to database row `rows[i]`: float32 [n] on the device of the queries.

    Args:
        queries: float32 [N, d].
        database: [M, d], any floating type, on any device.
        who: int64 [n].
        rows: int64 [n].
    """
    scores = torch.empty(len(rows), dtype=torch.float32, device=queries.device)
    step = max(1, PAIR_ELEMENTS[queries.device.type] // max(1, queries.shape[1]))
    for at in range(0, len(rows), step):
        here = slice(at, at + step)
        found = database.index_select(0, rows[here].to(database.device)).to(queries.device).float()
        torch.sum(found.mul_(queries.index_select(0, who[here])), dim=1, out=scores[here])
    return scores


def row_scores(queries: Tensor, database: Tensor, rows: Tensor) -> Tensor:
    """Similarity of each query to its own rows: float32 [N, m]; −inf where `rows` (int64 [N, m]) is `NOBODY`."""
    count, m = rows.shape
    dim = queries.shape[1]
    scores = torch.empty((count, m), dtype=torch.float32, device=queries.device)
    step = max(1, PAIR_ELEMENTS[queries.device.type] // max(1, m * dim))
    for at in range(0, count, step):
        here = slice(at, at + step)
        wanted = rows[here].clamp(min=0).reshape(-1).to(database.device)
        found = database.index_select(0, wanted).to(queries.device).float().view(-1, m, dim)
        torch.sum(found.mul_(queries[here, None]), dim=2, out=scores[here])
    return scores.masked_fill_(rows == NOBODY, -torch.inf)


def in_order(ids: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best k of each row: by similarity, then by row number; int64 and float32 [N, min(k, m)]."""
    by_id = ids.argsort(dim=1)
    by_score = scores.gather(1, by_id).argsort(dim=1, descending=True, stable=True)[:, :k]
    order = by_id.gather(1, by_score)
    return ids.gather(1, order), scores.gather(1, order)


def merged(ids: Tensor, scores: Tensor, who: Tensor, rows: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """The best of what each query had (`ids`, `scores` [N, k]) and of new pairs.

    Args:
        ids: int64 [N, k].
        scores: float32 [N, k].
        who: ascending query numbers, int64 [n].
        rows: database rows that these queries do not have yet, int64 [n].
        found: their similarities, float32 [n].
    """
    if not len(who):
        return ids, scores
    touched, place_of, counts = torch.unique(who, return_inverse=True, return_counts=True)
    width = int(counts.max())
    place = torch.arange(len(who), device=who.device) - (counts.cumsum(0) - counts)[place_of]
    wide_ids = ids.new_full((len(touched), width), NOBODY)
    wide_scores = scores.new_full((len(touched), width), -torch.inf)
    wide_ids[place_of, place], wide_scores[place_of, place] = rows, found
    both_ids = torch.cat([ids[touched], wide_ids], dim=1)
    both_scores = torch.cat([scores[touched], wide_scores], dim=1)
    ids[touched], scores[touched] = in_order(both_ids, both_scores, ids.shape[1])
    return ids, scores
