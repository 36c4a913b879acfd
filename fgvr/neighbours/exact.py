"""Exact search: a low-precision product proposes, fp32 similarities decide, and an error bound proves the result.

First, a product in bf16 (CPU) or fp16 (CUDA) finds the m best rows of each query (`tiles`), whose fp32 similarities are
then computed (`pairs`). Rounding changes no score by more than ε; so if the k-th similarity is more than ε above the
best score of all other rows, the k nearest are proven. For the other queries the database is streamed a second time,
and every row whose score reaches the k-th similarity − ε is compared: one by one if there are few, by a product in
double precision if they are a large share of a tile, as among near-duplicates. So the result equals that of brute
force, with ties in row order, whatever the product's precision; only the time depends on the data, and it is bounded.
Queries stay on the device while the database is streamed in blocks: neither has to fit into the device's memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fgvr.arrays import Floats, Ids
from fgvr.neighbours.found import NOBODY, Vectors, nobody
from fgvr.neighbours.tiles import (
    ROUNDING,
    TILINGS,
    Candidates,
    TileProduct,
    Tiling,
    best_columns,
    in_order,
    merged,
    pair_scores,
    row_scores,
)

# Relative rounding error of a result in this type.
UNIT_ROUNDOFF = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 0.0}
LEAST_CANDIDATES = 32
MANY = 1 / 32  # share of a tile's rows from which one product is faster than row by row


@dataclass(frozen=True)
class Product:
    """How scores are computed: on `device`, from vectors rounded to `dtype` (torch's name), in blocks of `tiling`."""

    device: str = "cpu"
    dtype: str = "float32"
    tiling: Tiling | None = None

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def blocks(self) -> Tiling:
        """The given tile sizes, or the device's default."""
        return self.tiling or TILINGS[torch.device(self.device).type]


FP32 = Product()


@dataclass(frozen=True)
class ExactResult:
    """Ids int64 and scores float32 [N, k], and the share of queries that needed the second pass."""

    ids: Ids
    scores: Floats
    unproven: float


def exact(queries: Vectors, database: Vectors, k: int, product: Product) -> ExactResult:
    """The k nearest database rows of each query, ordered by similarity and then by row number.

    Args:
        queries: L2-normalised, [N, d].
        database: L2-normalised, [M, d].
        k: at most M.
        product: how to compute scores.
    """
    ids, scores = nobody(len(queries), k)
    unproven = 0
    rows = _placed(tensor(database), torch.device(product.device))
    with _sums_in_fp32(product.device), _Workers(product, len(database)) as workers:
        for start in range(0, len(queries), product.blocks.slab):
            here = slice(start, start + product.blocks.slab)
            slab = _Slab(queries[here], rows, k, workers)
            slab.propose()
            unproven += slab.complete()
            ids[here], scores[here] = slab.ids.cpu().numpy(), slab.scores.cpu().numpy()
    return ExactResult(ids, scores, unproven / max(1, len(queries)))


class _Workers:
    """Threads that each process one block of queries after another, each with its own buffer of scores.

    On a CPU there are as many as torch may use, with one torch thread each: then none waits for the others after each
    of the many short steps, which would cost more than the steps if cores are shared. A GPU is fed by one thread.
    """

    def __init__(self, product: Product, database: int) -> None:
        self.product, self.device = product, torch.device(product.device)
        self.count = torch.get_num_threads() if self.device.type == "cpu" else 1
        self.free: SimpleQueue[TileProduct] = SimpleQueue()
        for _ in range(self.count):
            self.free.put(TileProduct(product.blocks, product.torch_dtype, self.device, database))

    def __enter__(self) -> Self:
        self.pool = ThreadPoolExecutor(self.count, initializer=torch.set_num_threads, initargs=(1,))
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()
        torch.set_num_threads(self.count if self.device.type == "cpu" else torch.get_num_threads())

    def each_block(self, queries: int, work: Callable[[slice, TileProduct], None]) -> None:
        """Call `work` for each block of queries, with a buffer that no other call uses meanwhile."""

        def one(at: int) -> None:
            tiles = self.free.get()
            try:
                work(slice(at, min(at + step, queries)), tiles)
            finally:
                self.free.put(tiles)

        step = self.product.blocks.queries
        blocks = range(0, queries, step)
        for _ in map(one, blocks) if self.count == 1 else self.pool.map(one, blocks):
            pass


class _Slab:
    """Queries that stay on the device while the database is streamed; `ids` and `scores` hold the k best so far."""

    def __init__(self, queries: Vectors, database: Tensor, k: int, workers: _Workers) -> None:
        self.k, self.workers, self.device = k, workers, workers.device
        self.dtype = workers.product.torch_dtype
        self.queries = tensor(queries).to(self.device, torch.float32)
        self.rounded = self.queries.to(self.dtype)
        self.database = database
        self.m = min(max(2 * k, LEAST_CANDIDATES), len(database))
        self.ids = torch.empty((len(queries), k), dtype=torch.int64, device=self.device)
        self.scores = torch.empty((len(queries), k), dtype=torch.float32, device=self.device)
        self.least_of_others = torch.empty(len(queries), device=self.device)
        self.longest = self.furthest = 0.0  # largest norms of database vectors and of their rounding errors

    def propose(self) -> None:
        """The k best of the m best rows by low-precision score."""
        found: dict[int, Candidates] = {}
        for first_row, block, rounded in self._blocks():
            self.longest = max(self.longest, float(torch.linalg.vector_norm(block, dim=1).max()))
            if rounded.dtype != torch.float32:
                lost = torch.linalg.vector_norm(block - rounded, dim=1)
                self.furthest = max(self.furthest, float(lost.max()))
            collect = partial(self._collect, found, rounded, first_row)
            self.workers.each_block(len(self.queries), collect)
        self.workers.each_block(len(self.queries), partial(self._compare, found))

    def _collect(
        self, found: dict[int, Candidates], block: Tensor, first_row: int, here: slice, tiles: TileProduct
    ) -> None:
        """Add the best rows of a database block to the candidates `found` so far."""
        new = tiles.candidates(self.rounded[here], block, self.m, first_row)
        found[here.start] = found[here.start].best_of(new) if here.start in found else new

    def _compare(self, found: dict[int, Candidates], here: slice, _: TileProduct) -> None:
        """Choose the k best of each query's candidates in fp32."""
        candidates = found[here.start]
        exact_scores = row_scores(self.queries[here], self.database, candidates.rows)
        self.ids[here], self.scores[here] = in_order(candidates.rows, exact_scores, self.k)
        cutoff = candidates.cutoff(self.dtype)
        least = torch.where(cutoff > 0, cutoff, torch.inf)
        if self.m == len(self.database):
            least.masked_fill_((candidates.rows != NOBODY).all(dim=1), -torch.inf)  # no other rows exist
        self.least_of_others[here] = least

    def complete(self) -> int:
        """Recompute the queries whose k best are not proven; returns their number."""
        reach = self.scores[:, -1]
        unproven = (reach <= self.least_of_others + self._error(self.least_of_others)).nonzero().ravel()
        if not len(unproven):
            return 0
        at_least = reach[unproven] - self._error(reach[unproven], unproven)
        mended = _SecondPass(self.queries[unproven], self.rounded[unproven], at_least, self.database, self.k)
        for first_row, block, rounded in self._blocks():
            self.workers.each_block(len(unproven), partial(mended.search, block, rounded, first_row))
        self.ids[unproven], self.scores[unproven] = mended.ids, mended.scores
        return len(unproven)

    def _error(self, score: Tensor, some: Tensor | None = None) -> Tensor:
        """A bound on |low-precision score − similarity| near `score`, float32 [n], for all queries or `some` of them.

        |q·d − q'·d'| ≤ |q − q'| |d| + |q'| |d − d'| by Cauchy–Schwarz, plus the rounding error of the sums themselves.
        """
        queries, rounded = self.queries, self.rounded
        if some is not None:
            queries, rounded = queries[some], rounded[some]
        lost = torch.linalg.vector_norm(queries - rounded.float(), dim=1)
        length = torch.linalg.vector_norm(queries, dim=1)
        inputs = lost * (self.longest + self.furthest) + length * self.furthest
        sums = 2 * queries.shape[1] * ROUNDING * length * self.longest
        bound: Tensor = inputs + sums + 1.01 * UNIT_ROUNDOFF[self.dtype] * score.abs().clamp(max=4.0)
        return bound

    def _blocks(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The first row of each database block, with its vectors in fp32 and in low precision."""
        step = self.workers.product.blocks.block
        for at in range(0, len(self.database), step):
            block = self.database[at : at + step].to(self.device).float()
            yield at, block, block.to(self.dtype)


class _SecondPass:
    """Queries whose k nearest are searched among all rows that can be among them, while the database is streamed."""

    def __init__(self, queries: Tensor, rounded: Tensor, at_least: Tensor, database: Tensor, k: int) -> None:
        """Rows with a low-precision score below `at_least` [n] are not among the k nearest of the n queries [n, d]."""
        self.queries, self.rounded, self.database, self.k = queries, rounded, database, k
        self.at_least = at_least.to(rounded.dtype)  # rounding the limit separates the rounded scores in the same way
        self.ids, self.scores = (torch.from_numpy(array).to(queries.device) for array in nobody(len(queries), k))

    def search(self, block: Tensor, rounded: Tensor, first_row: int, here: slice, tiles: TileProduct) -> None:
        """Compare some queries with a database block, given in fp32 and in low precision."""
        for number in range(-(-len(block) // tiles.columns)):
            first = number * tiles.columns
            rows = block[first : first + tiles.columns]
            near = tiles.tile(number, self.rounded[here], rounded)[:, : len(rows)] >= self.at_least[here, None]
            counts = near.view(torch.uint8).sum(dim=1, dtype=torch.int32)  # summing bytes takes half the time
            many = counts > MANY * len(rows)
            if many.any():
                self._by_product(many.nonzero().ravel() + here.start, rows, first_row + first, tiles)
            if (counts * ~many).any():
                self._one_by_one(here, near & ~many[:, None], first_row + first)

    def _one_by_one(self, here: slice, near: Tensor, first_row: int) -> None:
        """Compare some queries with the rows of a tile marked in `near`, bool [n, rows]."""
        who, rows = near.nonzero(as_tuple=True)
        rows += first_row
        found = pair_scores(self.queries[here], self.database, who, rows)
        self.ids[here], self.scores[here] = merged(self.ids[here], self.scores[here], who, rows, found)

    def _by_product(self, who: Tensor, rows: Tensor, first_row: int, tiles: TileProduct) -> None:
        """Compare the queries `who` with all `rows` [m, d] of a tile."""
        scores = tiles.all_scores.of(self.queries[who], rows)
        # Similarity equal to the k-th is not enough: rows come in order, and the first of equal ones wins.
        better = scores.amax(dim=1) > self.scores[who, -1]
        if not better.all():
            who, scores = who[better], scores[better]
        columns = best_columns(scores, self.k)
        ids = torch.cat([self.ids[who], columns + first_row], dim=1)
        both = torch.cat([self.scores[who], scores.gather(1, columns)], dim=1)
        self.ids[who], self.scores[who] = in_order(ids, both, self.k)


@contextmanager
def _sums_in_fp32(device: str) -> Iterator[None]:
    """Compute fp32 products in fp32, whatever this process has set: otherwise the error bound does not hold.

    cuBLAS may also accumulate parts of an fp16 product in fp16. Uses `fp32_precision`, since `allow_tf32` raises if the
    process has used the other setting before.
    """
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    wanted: dict[str, str | bool] = {"fp32_precision": "ieee"}
    if device != "cpu":
        settings = torch.backends.cuda.matmul
        wanted["allow_fp16_reduced_precision_reduction"] = False
    before = {name: getattr(settings, name) for name in wanted}
    try:
        for name, value in wanted.items():
            setattr(settings, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(settings, name, value)


def _placed(database: Tensor, device: torch.device) -> Tensor:
    """The database on a GPU with room for it and for what is computed from it; else left in place, to be streamed."""
    if device.type != "cuda" or database.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return database
    return database.to(device)


def tensor(vectors: Vectors | Ids) -> Tensor:
    """A view of an array, including read-only ones (memory-mapped files), which are never written to here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(vectors)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run torch on `count` threads, and restore the previous number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, count))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def first_not_finite(vectors: Vectors) -> tuple[int, int] | None:
    """How many vectors contain a NaN or an infinity, and the first such row; None if all are finite."""
    bad: list[npt.NDArray[np.int64]] = []
    for at in range(0, len(vectors), 65_536):
        good = torch.isfinite(tensor(vectors[at : at + 65_536])).all(dim=1)
        bad.append(at + (~good).nonzero().ravel().numpy())
    rows = np.concatenate(bad) if bad else np.zeros(0, np.int64)
    return (len(rows), int(rows[0])) if len(rows) else None
