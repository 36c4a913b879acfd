"""Similarities of pairs, each rounded only once, and sorting of rows by them; tiled low-precision products.

Every similarity that a search returns is computed here, from the stored vectors: summed in double precision, then
rounded to fp32. A product of two fp16 numbers is a multiple of 2⁻⁴⁸ and sums stay below 2⁴, so sums of fp16 vectors are
exact, and no order of summation changes them, on any device (for fp32 vectors they differ by about 1e-16 before
rounding). So equal vectors get equal similarities, whatever block they were found in, one by one or by a matrix
product, and ties are ordered by row number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fgvr.neighbours.found import NOBODY

PAIR_ELEMENTS = {"cpu": 2**16, "cuda": 2**26}  # gathered per step: what fits a core's cache, or half a gigabyte
ROUNDING = 2.0**-23  # times the number of terms: an error bound for fp32 sums over unit vectors


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
    """Similarities of some queries to all rows of a tile, by one product, in a buffer that is reused for all tiles.

    Allocating it for each tile would take a quarter of the time.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def of(self, queries: Tensor, rows: Tensor) -> Tensor:
        """Similarities of queries [n, d] to rows [m, d]: float32 [n, m], valid until the next call."""
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
    """In double precision, via fp32, since processors lack instructions to convert fp16 directly."""
    return vectors.float().double()


def best_columns(scores: Tensor, k: int) -> Tensor:
    """Columns of each row's k highest scores, unsorted; the first among equal ones: int64 [N, min(k, M)]."""
    if scores.shape[1] <= k:
        return torch.arange(scores.shape[1], device=scores.device).expand(scores.shape)
    values, at = scores.topk(k + 1, dim=1)
    cut = (values[:, k - 1] == values[:, k]).nonzero().ravel()  # rows with a tie across the cut
    at = at[:, :k]
    if len(cut):
        some, last = scores[cut], values[cut, k - 1 : k]
        better, equal = some > last, some == last
        room = k - better.sum(dim=1, keepdim=True)
        at[cut] = (better | (equal & (equal.cumsum(dim=1) <= room))).nonzero()[:, 1].view(-1, k)
    return at


def in_order(ids: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best k of each row, by similarity and then by row number; int64 and float32 [N, min(k, m)]."""
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


# The product of queries and a database block, tile by tile, and the best candidates in it.
#
# Scores are stored in 16 bits. Column j of all tiles of a block forms a group; the running maximum over the tiles
# is each group's best score. The m best of all scores lie in the m groups with the highest maxima (fewer than m other
# groups can beat a group that holds one of them), so only these groups are searched again. Positive floats sort like
# their bits read as integers, for which processors compute maxima faster; negative ones do not, and callers
# must handle that: `Candidates.cutoff` is negative then.
# caller must expect: `Candidates.cutoff` is negative then.

BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


@dataclass(frozen=True)
class Tiling:
    """Sizes of the tiles and blocks.

    Attributes:
        queries: number of queries per product.
        columns: number of database vectors per tile, which is also the number of groups.
        tiles: number of tiles per database block, which is also the size of a group.
        slab: number of queries that are held while the database is streamed.
    """

    queries: int
    columns: int
    tiles: int
    slab: int

    @property
    def block(self) -> int:
        """Number of database vectors per block."""
        return self.columns * self.tiles


# On a CPU a tile (2 MiB) stays in the caches until its maximum is taken. On a GPU it fits the L2 cache (32 MiB).
TILINGS = {"cpu": Tiling(512, 2048, 32, 65_536), "cuda": Tiling(2048, 8192, 64, 262_144)}


@dataclass
class Candidates:
    """The m best rows of each query by low-precision score, unsorted: bits [n, m], rows int64 [n, m]."""

    bits: Tensor
    rows: Tensor

    def best_of(self, other: Candidates) -> Candidates:
        """The best m of two such sets over different rows."""
        bits, rows = torch.cat([self.bits, other.bits], 1), torch.cat([self.rows, other.rows], 1)
        kept, at = bits.topk(self.bits.shape[1], dim=1, sorted=False)
        return Candidates(kept, rows.gather(1, at))

    def cutoff(self, dtype: torch.dtype) -> Tensor:
        """The lowest score among each query's candidates; no other row has a higher one: float32 [n].

        Holds only if it is positive; otherwise rows with higher scores may have been missed.
        """
        return self.bits.amin(dim=1).contiguous().view(dtype).float()


class TileProduct:
    """Multiplies blocks of queries with blocks of the database; owns the score buffers, also that of `all_scores`."""

    def __init__(self, tiling: Tiling, dtype: torch.dtype, device: torch.device, database: int) -> None:
        self.columns = max(1, min(tiling.columns, database))
        tiles = min(tiling.tiles, -(-database // self.columns))
        self.scores = torch.empty((tiles, tiling.queries, self.columns), dtype=dtype, device=device)
        self.all_scores = AllScores()
        self.dtype, self.least = dtype, torch.iinfo(BITS[dtype]).min

    def tile(self, number: int, queries: Tensor, block: Tensor) -> Tensor:
        """Scores [n, columns] of one tile of `block`; positions beyond the database's end hold the lowest bits."""
        part = block[number * self.columns : (number + 1) * self.columns]
        out = self.scores[number, : len(queries)]
        if len(part) == self.columns:
            torch.mm(queries, part.T, out=out)
        else:
            out.view(BITS[self.dtype]).fill_(self.least)
            out[:, : len(part)] = queries @ part.T
        return out

    def candidates(self, queries: Tensor, block: Tensor, m: int, first_row: int) -> Candidates:
        """The m best rows of `block` [b, d] for each of `queries` [n, d], numbered from `first_row`."""
        count, tiles, bits = len(queries), -(-len(block) // self.columns), BITS[self.dtype]
        scores = self.scores.view(bits)[:tiles, :count]
        if queries.is_cuda:  # one reduction of many tiles reads them once
            for number in range(tiles):
                self.tile(number, queries, block)
            best = scores.amax(dim=0)
        else:
            best = self.tile(0, queries, block).view(bits).clone()
            for number in range(1, tiles):
                torch.maximum(best, self.tile(number, queries, block).view(bits), out=best)
        groups = best.topk(min(m, self.columns), dim=1, sorted=False).indices
        inside = scores.gather(2, groups.expand(tiles, *groups.shape))  # [tiles, n, groups]
        inside = inside.permute(1, 0, 2).reshape(count, -1)
        kept, at = inside.topk(min(m, inside.shape[1]), dim=1, sorted=False)
        rows = (at // groups.shape[1]) * self.columns + groups.gather(1, at % groups.shape[1])
        # By row number, not by bits: -0.0, to which fp16 rounds values just below zero, has the lowest bits, too.
        rows.masked_fill_(rows >= len(block), NOBODY - first_row)
        missing = m - kept.shape[1]
        rows = torch.nn.functional.pad(rows.add_(first_row), (0, missing), value=NOBODY)
        return Candidates(torch.nn.functional.pad(kept, (0, missing), value=self.least), rows)
