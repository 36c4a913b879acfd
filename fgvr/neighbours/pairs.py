"""Similarities of pairs, each rounded once, and rows of them put in order.

Every similarity that leaves a search is computed here, from the stored vectors: summed in double precision, then
rounded to fp32. A product of two fp16 numbers is a multiple of 2⁻⁴⁸ and the sums stay below 2⁴, so that sums of fp16
vectors are exact and no order of theirs gives another result, on any device (of fp32 vectors they differ by some 1e-16
before they are rounded). So equal vectors get equal similarities whatever block they were found in, one by one or by a
product of matrices, and the order of ties is that of the row numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fgvr.neighbours.found import NOBODY

PAIR_ELEMENTS = {"cpu": 2**16, "cuda": 2**26}  # gathered at once: what stays in a core's cache, or half a gigabyte
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
        found = _double(database.index_select(0, rows[here].to(database.device)).to(queries.device))
        scores[here] = found.mul_(_double(queries.index_select(0, who[here]))).sum(dim=1)
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
        found = _double(database.index_select(0, wanted).to(queries.device)).view(-1, m, dim)
        scores[here] = found.mul_(_double(queries[here, None])).sum(dim=2)
    return scores.masked_fill_(rows == NOBODY, -torch.inf)


class AllScores:
    """Similarities of some queries to all rows of a tile, by one product, in memory that is kept from tile to tile.

    Fetched from the system for each tile it would take a quarter of the time.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def of(self, queries: Tensor, rows: Tensor) -> Tensor:
        """Of queries [n, d] and rows [m, d]: float32 [n, m], until the next call."""
        left = self._buffer("queries", queries.shape, queries).copy_(queries)
        right = self._buffer("rows", rows.shape, queries).copy_(rows)
        shape = torch.Size([len(queries), len(rows)])
        sums = torch.mm(left, right.T, out=self._buffer("sums", shape, queries))
        return self._buffer("scores", shape, queries, torch.float32).copy_(sums)

    def _buffer(self, name: str, shape: torch.Size, like: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        kept = self._kept.get(name)
        if kept is None or kept.numel() < shape.numel():
            kept = self._kept[name] = torch.empty(shape.numel(), dtype=dtype, device=like.device)
        return kept[: shape.numel()].view(shape)


def _double(vectors: Tensor) -> Tensor:
    """In double precision; by way of fp32, for which processors have instructions that fp16 lacks."""
    return vectors.float().double()


def best_columns(scores: Tensor, k: int) -> Tensor:
    """The columns of each row's k highest scores, of equal ones the first, in no order: int64 [N, min(k, M)]."""
    if scores.shape[1] <= k:
        return torch.arange(scores.shape[1], device=scores.device).expand(scores.shape)
    values, at = scores.topk(k + 1, dim=1)
    cut = (values[:, k - 1] == values[:, k]).nonzero().ravel()  # equal ones on both sides of the cut
    at = at[:, :k]
    if len(cut):
        some, last = scores[cut], values[cut, k - 1 : k]
        better, equal = some > last, some == last
        room = k - better.sum(dim=1, keepdim=True)
        at[cut] = (better | (equal & (equal.cumsum(dim=1) <= room))).nonzero()[:, 1].view(-1, k)
    return at


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
