"""The whole selection over vectors in files: in the stage's own process, or in a worker with a GPU.

The vectors of the pool lie in a folder as `fgvr.neighbours.search_worker.write` writes them, and are mapped into
memory. The whitened ones are written beside them, so that ten million images need 20 GB of disk and little memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fgvr import schemas
from fgvr.arrays import NONE, Ids
from fgvr.neighbours.search_worker import VectorFile, write
from fgvr.selection.choose import How, Space, choose, medoids
from fgvr.selection.coverage import Counts, distances, reach
from fgvr.selection.kmeans import assign, spherical_kmeans
from fgvr.selection.second_round import second_round
from fgvr.selection.whitening import NEAR_DUPLICATE, Whitening, fit_whitening

BLOCK = 65_536
ESTIMATE_ROUNDS = 4
RANDOM, UNCOVERED, DISPUTED = "random", "uncovered", "disputed"
WHY = {"medoids": "medoid", "typical": "typical"}
"""Why an image was chosen, in the table's words, by the way of choosing."""


@dataclass(frozen=True)
class Pool:
    """The images to choose from, and what computes.

    Attributes:
        folder: their vectors in files.
        scratch: a folder for the whitened ones.
        threads: number of cores that may be used.
        device: "cpu" or "cuda".
    """

    folder: str
    scratch: str
    threads: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class FirstRound:
    """Images that were asked about before.

    Attributes:
        ids: image ids, ascending, int64 [a].
        labels: their label ids, int64 [a]; `NONE` where an answer failed.
        why: why each was chosen, in the table's words.
    """

    ids: Ids
    labels: Ids
    why: Sequence[str]


@dataclass(frozen=True)
class Wanted:
    """How many images are asked about (of both rounds together), how they are chosen, and the seed.

    `duplicate`: cosine from which two images count as one photo.
    """

    count: int
    how: How
    seed: int
    duplicate: float = NEAR_DUPLICATE


@dataclass(frozen=True)
class Selection:
    """The images that are asked about.

    Attributes:
        rows: of `fgvr.schemas.SELECTED`, ascending by id, the first round included.
        counts: `fgvr.selection.coverage.Reach.counts` of them all.
        doubled: the same if twice as many were asked about; None if there are not so many images.
    """

    rows: pa.Table
    counts: Counts
    doubled: Counts | None


def fit_pool(pool: Pool) -> Whitening:
    """The whitening of a pool; see `fit_whitening`."""
    return fit_whitening(VectorFile.open(pool.folder).vectors, threads=pool.threads, device=pool.device)


def select(pool: Pool, whitening: Whitening, wanted: Wanted, first: FirstRound | None = None) -> Selection:
    """Choose the images to ask about.

    Args:
        pool: the images.
        whitening: of their space.
        wanted: how many, and how.
        first: the images of a first round, which are part of the selection; None: there is none.
    """
    there = VectorFile.open(pool.folder)
    ids = np.asarray(there.ids)
    blocks = (
        (ids[at : at + BLOCK], whitening.apply(there.vectors[at : at + BLOCK]).astype(np.float16))
        for at in range(0, len(ids), BLOCK)
    )
    write(pool.scratch, ids, there.vectors.shape[1], blocks)
    space = Space(there.vectors, VectorFile.open(pool.scratch).vectors, wanted.duplicate)
    rows, rounds, why = _chosen(space, ids, wanted, pool, first)
    found = reach(space.whitened, rows, threads=pool.threads, device=pool.device)
    alone = found.nearest == NONE
    columns = {
        "image_id": ids[rows],
        "round": pa.array(rounds, pa.int8()),
        "why": why.tolist(),
        "stands_for": found.stands_for,
        "nearest_id": pa.array(ids[rows[found.nearest]], pa.int64(), mask=alone),
        "similarity": pa.array(found.similarity, pa.float32(), mask=alone),
    }
    return Selection(pa.table(columns, schema=schemas.SELECTED), found.counts, _doubled(space, 2 * len(rows), pool))


def _doubled(space: Space, count: int, pool: Pool) -> Counts | None:
    """How near all images would be to `count` asked ones; a few rounds of k-means suffice to know."""
    if count >= len(space):
        return None
    centres = spherical_kmeans(space.whitened, count, rounds=ESTIMATE_ROUNDS, threads=pool.threads, device=pool.device)
    rows = medoids(assign(space.whitened, centres, threads=pool.threads, device=pool.device))
    return distances(space.whitened, rows, threads=pool.threads, device=pool.device)


def _chosen(
    space: Space, ids: Ids, wanted: Wanted, pool: Pool, first: FirstRound | None
) -> tuple[Ids, Ids, np.ndarray[tuple[int], np.dtype[np.object_]]]:
    """Rows of the chosen images, ascending, the round of each, and why it was chosen."""
    seed, threads, device = wanted.seed, pool.threads, pool.device
    if first is None:
        chosen = choose(space, wanted.count, wanted.how, seed=seed, threads=threads, device=device)
        why = np.where(chosen.filled, RANDOM, WHY[wanted.how]).astype(object)
        return chosen.rows, np.ones(len(chosen.rows), np.int64), why
    if not np.isin(first.ids, ids).all():
        raise ValueError("an image of the first round has no vector any more: its table of vectors is not the same")
    asked = np.searchsorted(ids, first.ids)
    rows, rounds, why = asked, np.ones(len(asked), np.int64), np.array(first.why, object)
    left = min(wanted.count, len(space)) - len(asked)
    if left > 0:
        more = second_round(space, asked, first.labels, left, wanted.how, seed=seed, threads=threads, device=device)
        rows = np.concatenate([rows, more.chosen.rows])
        rounds = np.concatenate([rounds, np.full(len(more.chosen.rows), 2)])
        why = np.concatenate([why, np.where(more.uncovered, UNCOVERED, DISPUTED).astype(object)])
    order = np.argsort(rows)
    return rows[order], rounds[order], why[order]
