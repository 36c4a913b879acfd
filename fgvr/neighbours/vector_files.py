"""Vectors as memory-mapped files, for searches whose vectors no single process should hold.

A folder holds `vectors.npy` (fp16 [n, d]) and `ids.npy` (int64 [n], ascending image ids). It is written block by block
and read where it lies, or from the copy that `storage.fetch_folder` makes of a remote one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fgvr import storage
from fgvr.neighbours.found import Ids, Vectors

VECTORS, IDS, OWN = "vectors.npy", "ids.npy", "own.npy"


@dataclass(frozen=True)
class VectorFile:
    """Vectors with their image ids, memory-mapped: fp16 [n, d] and int64 [n]; `own` as in `nearest`, where given."""

    vectors: Vectors
    ids: Ids
    own: Ids | None = None

    @classmethod
    def open(cls, folder: str) -> VectorFile:
        """The files of a folder; raises FileNotFoundError."""
        local = storage.fetch_folder(folder)
        own = np.load(local / OWN, mmap_mode="r") if (local / OWN).exists() else None
        return cls(np.load(local / VECTORS, mmap_mode="r"), np.load(local / IDS, mmap_mode="r"), own)


def write(folder: str, ids: Ids, dim: int, blocks: Iterable[tuple[Ids, Vectors]], own: Ids | None = None) -> None:
    """Write the vectors of `ids`.

    Args:
        folder: where the files go.
        ids: ascending image ids, int64 [n].
        dim: of a vector.
        blocks: ids (ascending, all blocks together) and vectors of more or of just these images.
        own: int64 [n] beside them.
    """
    # Not through a memory map: on a disk that is full, writing to one kills the process without a word.
    with storage.new_file(storage.join(folder, VECTORS)) as file:
        write_header: Any = np.lib.format.write_array_header_1_0
        write_header(file, {"descr": "<f2", "fortran_order": False, "shape": (len(ids), dim)})
        written = 0
        for vectors in _wanted(ids, blocks):
            file.write(np.ascontiguousarray(vectors, dtype="<f2").tobytes())
            written += len(vectors)
        if written != len(ids):
            raise ValueError(f"{len(ids) - written} of {len(ids)} images have no vector among those that were given")
    for name, array in ((IDS, ids), (OWN, own)):
        if array is not None:
            with storage.new_file(storage.join(folder, name)) as file:
                np.save(file, array)


def _wanted(ids: Ids, blocks: Iterable[tuple[Ids, Vectors]]) -> Iterator[Vectors]:
    """The vectors of those of `ids` that are in each block, in their order."""
    for here, vectors in blocks:
        if not len(here):
            continue
        first, last = np.searchsorted(ids, [here[0], here[-1] + 1])
        at = np.searchsorted(here, ids[first:last])
        yield vectors[at[here[at] == ids[first:last]]]
