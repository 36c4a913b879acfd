"""The product of queries and a block of the database, tile by tile, and the candidates that stand out in it.

Scores are written once, in 16 bits. Column j of all tiles of a block is a group; the running maximum of the tiles is
each group's best score. The m best of all scores lie in the m groups with the best maxima (a group that holds one of
them is beaten by fewer than m others), so only these groups are looked at again. Positive floats are in the order of
their bits read as integers, for which processors have quicker maxima; negative ones are not, which the caller must
expect: `Candidates.cutoff` is negative then.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fgvr.neighbours.found import NOBODY
from fgvr.neighbours.pairs import AllScores

BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


@dataclass(frozen=True)
class Tiling:
    """Sizes of what is multiplied at once.

    Attributes:
        queries: in a product.
        columns: database vectors in a tile, which is also the number of groups.
        tiles: in a block of the database, which is also the size of a group.
        slab: queries that are held while the database passes by.
    """

    queries: int
    columns: int
    tiles: int
    slab: int

    @property
    def block(self) -> int:
        """Database vectors in a block."""
        return self.columns * self.tiles


# On a CPU a tile (2 MiB) stays in the caches until its maximum is taken. On a GPU it fits the L2 cache (32 MiB).
TILINGS = {"cpu": Tiling(512, 2048, 32, 65_536), "cuda": Tiling(2048, 8192, 64, 262_144)}


@dataclass
class Candidates:
    """The m best rows by low-precision scores of each query, in no order: bits [n, m], rows int64 [n, m]."""

    bits: Tensor
    rows: Tensor

    def best_of(self, other: Candidates) -> Candidates:
        """The best m of two such sets over different rows."""
        bits, rows = torch.cat([self.bits, other.bits], 1), torch.cat([self.rows, other.rows], 1)
        kept, at = bits.topk(self.bits.shape[1], dim=1, sorted=False)
        return Candidates(kept, rows.gather(1, at))

    def cutoff(self, dtype: torch.dtype) -> Tensor:
        """The least score among each query's candidates, no row that is not one has a better one: float32 [n].

        Only where it is positive; where it is not, rows with better scores may have been missed.
        """
        return self.bits.amin(dim=1).contiguous().view(dtype).float()


class TileProduct:
    """Multiplies blocks of queries and of the database; owns the buffers of scores, those of `all_scores`, too."""

    def __init__(self, tiling: Tiling, dtype: torch.dtype, device: torch.device, database: int) -> None:
        self.columns = max(1, min(tiling.columns, database))
        tiles = min(tiling.tiles, -(-database // self.columns))
        self.scores = torch.empty((tiles, tiling.queries, self.columns), dtype=dtype, device=device)
        self.all_scores = AllScores()
        self.dtype, self.least = dtype, torch.iinfo(BITS[dtype]).min

    def tile(self, number: int, queries: Tensor, block: Tensor) -> Tensor:
        """Scores [n, columns] of one tile of `block`; places beyond the database's end hold the least bits."""
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
        # By the row, not by the bits: -0.0, to which fp16 rounds what is just below zero, has the least ones, too.
        rows.masked_fill_(rows >= len(block), NOBODY - first_row)
        missing = m - kept.shape[1]
        rows = torch.nn.functional.pad(rows.add_(first_row), (0, missing), value=NOBODY)
        return Candidates(torch.nn.functional.pad(kept, (0, missing), value=self.least), rows)
