"""Search in tasks on the cluster, over vectors in memory-mapped files that no single process needs to hold.

A folder holds `vectors.npy` (fp16 [n, d]) and `ids.npy` (int64 [n], ascending image ids). It is written block by block
and read in place, or from the copy that `storage.fetch_folder` makes of a remote folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fgvr import schemas, storage, tables
from fgvr.array_files import open_array, save_array, save_blocks
from fgvr.arrays import Floats, Ids
from fgvr.neighbours.found import NOBODY, Vectors, merge
from fgvr.neighbours.inverted_file import InvertedFile
from fgvr.neighbours.nearest import built_or_exactly, nearest
from fgvr.neighbours.plan import Plan

VECTORS, IDS, OWN = "vectors.npy", "ids.npy", "own.npy"


@dataclass(frozen=True)
class VectorFile:
    """Vectors with their image ids, memory-mapped: fp16 [n, d] and int64 [n]; `own` as in `nearest`, if present."""

    vectors: Vectors
    ids: Ids
    own: Ids | None = None

    @classmethod
    def open(cls, folder: str) -> VectorFile:
        """Open the files of a folder; raises FileNotFoundError."""
        local = storage.fetch_folder(folder)
        own = open_array(local / OWN) if (local / OWN).exists() else None
        return cls(open_array(local / VECTORS), open_array(local / IDS), own)


def write(folder: str, ids: Ids, dim: int, blocks: Iterable[tuple[Ids, Vectors]], own: Ids | None = None) -> None:
    """Write the vectors of `ids`.

    Args:
        folder: where the files are written.
        ids: ascending image ids, int64 [n].
        dim: dimension of a vector.
        blocks: ids (ascending over all blocks) and vectors; may contain other images as well.
        own: int64 [n], stored beside them.
    """
    # Not through a memory map: on a full disk, writing to one kills the process without any message.
    save_blocks(storage.join(folder, VECTORS), "<f2", (len(ids), dim), _wanted(ids, blocks))
    for name, array in ((IDS, ids), (OWN, own)):
        if array is not None:
            save_array(storage.join(folder, name), array)


def _wanted(ids: Ids, blocks: Iterable[tuple[Ids, Vectors]]) -> Iterator[Vectors]:
    """From each block the vectors of those images that are among `ids`, in order; ValueError if some lack one."""
    missing = len(ids)
    for here, vectors in blocks:
        if not len(here):
            continue
        first, last = np.searchsorted(ids, [here[0], here[-1] + 1])
        at = np.searchsorted(here, ids[first:last])
        found = vectors[at[here[at] == ids[first:last]]]
        yield found
        missing -= len(found)
    if missing:
        raise ValueError(f"{missing} of {len(ids)} images have no vector among those that were given")


# In a search in tasks, one part is a block of queries against all vectors of a shard, and becomes one file.
#
# A part's queries stay in memory while the database is streamed from its memory-mapped file, so a part's result is
# complete and nothing has to be collected; if the database has several shards, `MergeWorker` merges their results.

INDEX = "index.faiss"


@dataclass(frozen=True)
class SearchTask:
    """What a worker of one shard needs; picklable.

    Attributes:
        queries: folder of the query vectors.
        shard: folder of the shard's vectors, and of its inverted file.
        k: number of neighbours wanted.
        how: the plan.
        threads: number of cores.
        probed: number of lists that are probed.
    """

    queries: str
    shard: str
    k: int
    how: Plan
    threads: int = 1
    probed: int = 0


class SearchWorker:
    """The PartWorker that searches one shard; see fgvr.part_worker.PartWorker."""

    def __init__(self, task: SearchTask) -> None:
        self.task = task
        self.queries, self.shard = VectorFile.open(task.queries), VectorFile.open(task.shard)
        self.built = _read_index(task) if task.how.method == "ivf" else None

    def process(self, rows: pa.Table) -> pa.Table:
        """The nearest images in this shard of each image in `rows`, all of which have a vector."""
        ids = rows["image_id"].to_numpy()
        at = np.searchsorted(self.queries.ids, ids)
        own = None if self.queries.own is None else _places(self.shard.ids, np.asarray(self.queries.own[at]))
        found = nearest(
            np.asarray(self.queries.vectors[at]),
            self.shard.vectors,
            self.task.k,
            own=own,
            threads=self.task.threads,
            how=self.task.how,
            built=self.built,
            finite=True,  # only finite vectors were written to the files
        )
        known = found.ids != NOBODY
        return neighbour_rows(ids, np.where(known, self.shard.ids[np.where(known, found.ids, 0)], NOBODY), found.scores)


class MergeWorker:
    """The PartWorker that merges the results of several shards."""

    def __init__(self, queries: str, shards: list[str], rows_per_part: int, k: int) -> None:
        self.queries, self.shards, self.size, self.k = VectorFile.open(queries), shards, rows_per_part, k

    def process(self, rows: pa.Table) -> pa.Table:
        """The nearest images over all shards of each image in `rows`, the images of one part."""
        ids = rows["image_id"].to_numpy()
        at = np.searchsorted(self.queries.ids, ids)
        number = int(at[0]) // self.size
        parts = [tables.rows_among(tables.read_part(shard, number), ids) for shard in self.shards]
        own = None if self.queries.own is None else np.asarray(self.queries.own[at])
        merged = neighbour_rows(ids, *merge([read_neighbours(part, self.k) for part in parts], self.k, own))
        return _failed_where_one_failed(merged, parts)


def _failed_where_one_failed(merged: pa.Table, parts: list[pa.Table]) -> pa.Table:
    """If an image's search failed in one shard because its workers died, the image has no neighbours at all."""
    failed = np.any([part["error"].is_valid().to_numpy() for part in parts], axis=0)
    if not failed.any():
        return merged
    errors = [next(filter(None, row), None) for row in zip(*(part["error"].to_pylist() for part in parts), strict=True)]
    for name in ("neighbour_ids", "neighbour_scores"):
        column = pc.if_else(pa.array(failed), pa.scalar(None, merged.schema.field(name).type), merged[name])
        merged = merged.set_column(merged.schema.get_field_index(name), merged.schema.field(name), column)
    place = merged.schema.get_field_index("error")
    return merged.set_column(place, schemas.ERROR, pa.array(errors, schemas.ERROR.type))


def prepare_index(task: SearchTask, recall: float) -> tuple[int, float]:
    """Write the shard's inverted file; returns how many lists must be probed, and the measured recall.

    If the recall is too low: 0 lists if the plan falls back to exact search, else raises RecallTooLow.
    """
    import faiss

    shard, queries = VectorFile.open(task.shard), VectorFile.open(task.queries)
    most, product = min(task.k, len(shard.ids)), replace(task.how.product, device="cpu")
    _, built = built_or_exactly(task.how, queries.vectors, shard.vectors, most, recall=recall, product=product)
    if built is None:
        return 0, 1.0
    with tempfile.TemporaryDirectory() as temporary:
        faiss.write_index(built.index, str(Path(temporary) / INDEX))
        storage.put_folder(Path(temporary), storage.join(task.shard, "index"))
    return int(built.index.nprobe), built.recall


def _read_index(task: SearchTask) -> InvertedFile:
    import faiss

    index: Any = faiss.read_index(
        str(storage.fetch_folder(storage.join(task.shard, "index")) / INDEX), faiss.IO_FLAG_MMAP
    )
    index.nprobe = task.probed
    return InvertedFile(index)


def _places(ids: Ids, wanted: Ids) -> Ids:
    """Position of each of `wanted` in the ascending `ids`, −1 if absent."""
    if not len(ids):
        return np.full(len(wanted), NOBODY, np.int64)
    at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[at] == wanted, at, NOBODY)


def neighbour_rows(image_ids: Ids, ids: Ids, scores: Floats) -> pa.Table:
    """Rows of the neighbours schema.

    Args:
        image_ids: int64 [N].
        ids: image ids of the neighbours, nearest first, int64 [N, k]; −1 in unused positions, which come last.
        scores: float32 [N, k].
    """
    used = ids != NOBODY
    offsets = pa.array(np.concatenate([[0], np.cumsum(used.sum(axis=1))]).astype(np.int32))
    return pa.table(
        [
            pa.array(image_ids, pa.int64()),
            pa.ListArray.from_arrays(offsets, pa.array(ids[used], pa.int64())),
            pa.ListArray.from_arrays(offsets, pa.array(scores[used], pa.float32())),
            pa.nulls(len(image_ids), schemas.ERROR.type),
        ],
        schema=schemas.NEIGHBOURS,
    )


def read_neighbours(rows: pa.Table, k: int) -> tuple[Ids, Floats]:
    """Image ids int64 and similarities float32 [N, k] from rows of the neighbours schema; −1 and −inf if unused."""
    near, scores = (rows[name].combine_chunks() for name in ("neighbour_ids", "neighbour_scores"))
    sizes = np.diff(near.offsets.to_numpy()) if len(near) else np.zeros(0, np.int64)
    used = np.arange(k) < sizes[:, None]
    ids, values = np.full(used.shape, NOBODY, np.int64), np.full(used.shape, -np.inf, np.float32)
    ids[used], values[used] = near.flatten().to_numpy(), scores.flatten().to_numpy()
    return ids, values
