"""Spherical k-means: as many directions as images are to be asked about, for up to some ten million vectors.

k-means of unit vectors by cosine (Dhillon and Modha, Machine Learning 42, 2001). It learns from at most 256 vectors per
centre. These are read block by block, from memory or from a memory-mapped file, so that memory is needed for the
centres, one block of similarities and the vectors of the start.

The start is that of k-means++ (Arthur and Vassilvitskii, SODA 2007), which draws one centre after the other with
probability proportional to the squared distance to the nearest one so far. Its k passes over the data would take longer
than all that follows. So centres are drawn in batches, of at most an eighth of those that are there: for up to 15
centres this *is* k-means++, and for 30,000 there are about 90 passes instead of 30,000. In each batch, as in k-means‖
(Bahmani et al., VLDB 2012), two may fall into one cluster; the rounds that follow part them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fgvr.arrays import Floats, Ids
from fgvr.neighbours.exact import tensor, torch_threads
from fgvr.neighbours.found import Vectors

RULES = 1
"""Increase it when the same vectors would give other centres."""
ROUNDS = 12
PER_CENTRE = 256
"""Vectors per centre from which the centres are computed, as in FAISS."""
START_PER_CENTRE = 32
"""Vectors per centre among which the start is drawn."""
LEAST_START = 16_384
BATCH = 8  # centres that there must be for each one that is drawn in the next batch
MOVED = 0.001  # share of the vectors that change their cluster in a round, below which the rounds end
SAME = 1e-3  # 1 − cosine of two fp16 copies of one vector, at most
SCORES = 2**25  # similarities at a time: 128 MiB


@dataclass(frozen=True)
class Clusters:
    """The centre that is nearest to each vector.

    Attributes:
        nearest: position of the centre, int64 [N].
        similarity: cosine to it, float32 [N].
    """

    nearest: Ids
    similarity: Floats


def spherical_kmeans(
    vectors: Vectors,
    count: int,
    *,
    weights: Floats | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
    threads: int = 1,
    device: str = "cpu",
) -> Floats:
    """Centres of clusters by cosine, float32 [k, d] of unit length; k is less than `count` if fewer vectors differ.

    A cluster that loses all its vectors continues from a vector drawn at random.

    Args:
        vectors: of unit length, [N, d]; may be memory-mapped.
        count: number of centres, at least 1.
        weights: how much each vector counts, float32 [N], not negative; None: all alike.
        rounds: the most rounds of assigning vectors and moving centres.
        seed: of the sample, the start, and the vectors for clusters that became empty.
        threads: number of cores that may be used.
        device: where products are computed, "cpu" or "cuda".

    Raises:
        ValueError: no vectors, a count below 1, or weights without any weight.
    """
    if count < 1 or not len(vectors):
        raise ValueError(f"cannot make {count} clusters of {len(vectors)} vectors")
    if weights is not None and not weights.any():
        raise ValueError("no vector has a weight")
    random = np.random.default_rng(seed)
    order = random.permutation(len(vectors))
    if weights is not None:
        order = order[weights[order] > 0]
    sample = np.sort(order[: PER_CENTRE * count])
    with torch_threads(threads):
        few = np.sort(order[: max(LEAST_START, START_PER_CENTRE * count)])
        work = _Work(vectors, few, weights, device)
        centres = work.start(count, random)
        work = _Work(vectors, sample, weights, device)
        before = np.full(len(sample), -1, np.int64)
        for _ in range(rounds):
            sums, after = work.sums(centres)
            centres = work.moved(centres, sums, random)
            if (after != before).mean() < MOVED:
                break
            before = after
    result: Floats = centres.cpu().numpy()
    return result


def assign(vectors: Vectors, centres: Floats, *, threads: int = 1, device: str = "cpu") -> Clusters:
    """The nearest centre of each vector.

    Args:
        vectors: of unit length, [N, d]; may be memory-mapped.
        centres: of unit length, [k, d].
        threads: number of cores that may be used.
        device: where products are computed, "cpu" or "cuda".
    """
    nearest, similarity = np.zeros(len(vectors), np.int64), np.zeros(len(vectors), np.float32)
    with torch_threads(threads):
        directions = tensor(centres).to(device).T
        for here, rows in blocks(vectors, len(centres), device):
            best, which = (rows @ directions).max(dim=1)
            nearest[here], similarity[here] = which.cpu().numpy(), best.cpu().numpy()
    return Clusters(nearest, similarity)


def blocks(vectors: Vectors, width: int, device: str, rows: Ids | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of vectors, float32 on a device, so small that there is memory for `width` scores of each vector.

    Args:
        vectors: [N, d]; may be memory-mapped.
        width: scores per vector.
        device: "cpu" or "cuda".
        rows: int64 [n], which vectors; None: all.
    """
    count = len(vectors) if rows is None else len(rows)
    step = max(64, min(65_536, SCORES // max(1, width)))
    for at in range(0, count, step):
        here = slice(at, min(at + step, count))
        some: Vectors = vectors[here] if rows is None else vectors[rows[here]]
        yield here, tensor(np.ascontiguousarray(some)).to(device).float()  # type: ignore[arg-type]


class _Work:
    """Some rows of the vectors, and what is computed from them block by block on a device."""

    def __init__(self, vectors: Vectors, rows: Ids | None, weights: Floats | None, device: str) -> None:
        self.vectors, self.device = vectors, device
        self.rows = None if rows is None or len(rows) == len(vectors) else rows
        self.weights = weights if weights is None or self.rows is None else weights[self.rows]
        self.count = len(vectors) if self.rows is None else len(self.rows)

    def blocks(self, width: int) -> Iterator[tuple[slice, Tensor]]:
        """As `blocks` of the rows."""
        return blocks(self.vectors, width, self.device, self.rows)

    def start(self, count: int, random: np.random.Generator) -> Tensor:
        """First centres by k-means++ in batches, float32 [k, d]; fewer than `count` if no further vector differs."""
        weights = np.ones(self.count) if self.weights is None else self.weights.astype(np.float64)
        far = np.full(self.count, 2.0)
        chosen: list[Ids] = []
        centres: list[Tensor] = []
        there = 0
        while there < count and (far > 0).any():
            drawn = _drawn(weights * far, min(count - there, max(1, there // BATCH)), random)
            taken = drawn if self.rows is None else self.rows[drawn]
            new = tensor(np.ascontiguousarray(self.vectors[taken], np.float32)).to(self.device)
            new = torch.nn.functional.normalize(new, dim=1)
            for here, rows in self.blocks(len(drawn)):
                away = 1 - (rows @ new.T).max(dim=1).values.double().cpu().numpy()
                far[here] = np.minimum(far[here], np.where(away > SAME, away, 0.0))
            far[drawn] = 0.0
            chosen.append(drawn)
            centres.append(new)
            there += len(drawn)
        return torch.cat(centres)

    def sums(self, centres: Tensor) -> tuple[Tensor, Ids]:
        """The sum of each cluster's vectors, float32 [k, d], and the cluster of each row, int64 [n]."""
        sums = torch.zeros_like(centres)
        nearest = np.zeros(self.count, np.int64)
        for here, rows in self.blocks(len(centres)):
            which = (rows @ centres.T).argmax(dim=1)
            if self.weights is not None:
                weights = tensor(self.weights[here].astype(np.float32)).to(self.device)
                sums.index_add_(0, which, rows * weights[:, None])
            else:
                sums.index_add_(0, which, rows)
            nearest[here] = which.cpu().numpy()
        return sums, nearest

    def moved(self, centres: Tensor, sums: Tensor, random: np.random.Generator) -> Tensor:
        """The centres of these sums; where there is none, a vector at random."""
        empty = (torch.linalg.vector_norm(sums, dim=1) < SAME).nonzero().ravel().cpu().numpy()
        if len(empty):
            places = random.integers(self.count, size=len(empty))
            places = places if self.rows is None else self.rows[places]
            sums[empty] = tensor(np.ascontiguousarray(self.vectors[places], np.float32)).to(self.device)
        lengths = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
        return torch.where(lengths > 0, sums / lengths.clamp(min=1e-12), centres)


def _drawn(weights: npt.NDArray[np.float64], count: int, random: np.random.Generator) -> Ids:
    """Distinct positions, at most `count`, drawn with probability proportional to their weights."""
    total = weights.cumsum()
    places = np.searchsorted(total, random.random(count) * total[-1], side="right")
    return np.unique(np.minimum(places, len(weights) - 1)).astype(np.int64)
