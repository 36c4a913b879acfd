"""From a file of vectors to rows of the embeddings table: matched with the photos, checked, and of unit length.

Rows come in any order. Which photo each row is of is found first, from the URIs or ids alone; then the vectors are read
once and put into a temporary file at the place of their photo, so that memory does not grow with the file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgvr import storage
from fgvr.arrays import Floats, Ids
from fgvr.clip.vectors import embedding_rows
from fgvr.config.vectors import FileVectors
from fgvr.digests import content_of
from fgvr.schemas import Failure, Reason
from fgvr.sources.image_join import ImageJoin
from fgvr.sources.sorted_runs import ROOM
from fgvr.storage_errors import full_disk
from fgvr.tables import Table
from fgvr.vector_files.vector_file import FIELD, VectorFile, VectorFileError

RULES: Final = 1
"""Increase it when the same file gives other rows."""
PROBED: Final = 16
"""Photos that are embedded again, where the encoder is known."""
LOWEST_COSINE: Final = 0.9
"""Of a photo's two vectors by one model: decoders and precisions differ, but far less than two photos of one kind."""
_MISSING, _GOOD, _BAD, _TWICE = range(4)
_FAILURES: Final = {
    _MISSING: Failure(Reason.NOT_IN_FILE, "the file of vectors has no row about this photo"),
    _BAD: Failure(Reason.BAD_VECTOR, "the file's vector has length 0, or values that are no finite numbers"),
    _TWICE: Failure(Reason.CONTRADICTION, "the file has two different vectors of this photo"),
}
ROW: Final = pa.schema([("row", pa.int64())])


def file_decides(source: FileVectors) -> dict[str, object]:
    """What of a file of vectors decides the embeddings, for fingerprints: its content, and how it is read."""
    columns = source.model_dump(include={"vector_column", "uri_column", "id_column", "order"})
    return {"file": content_of(storage.absolute(source.path)), "columns": columns, "rules": RULES}


class MatchedVectors:
    """The vectors of a file for some photos, in the order of their ids; made by `matched`.

    Attributes:
        ids: int64 [n], ascending: the photos.
        join: counts of the file's rows; None where the order names the photos.
        repeated: rows that say again what another one says.
    """

    def __init__(self, ids: Ids, halfs: npt.NDArray[np.float16], join: ImageJoin | None) -> None:
        """`halfs` is filled by `add`: float16 [n, d]."""
        self.ids, self.join, self.repeated = ids, join, 0
        self._halfs, self._state = halfs[: len(ids)], np.zeros(len(ids), np.uint8)

    def add(self, of: Ids, block: npt.NDArray[Any]) -> None:
        """Take vectors [m, d] of the photos `of` (int64 [m]; -1: of none)."""
        places = np.minimum(np.searchsorted(self.ids, of), max(0, len(self.ids) - 1))
        asked = np.flatnonzero(self.ids[places] == of) if len(self.ids) else np.zeros(0, np.int64)
        at = places[asked]
        vectors, good = _unit(block[asked])
        states = np.where(good, _GOOD, _BAD).astype(np.uint8)
        if len(np.unique(at)) == len(at) and not self._state[at].any():  # the usual case: no photo is there twice
            self._halfs[at], self._state[at] = vectors, states
            return
        for place, vector, state in zip(at.tolist(), vectors, states.tolist(), strict=True):
            if self._state[place] == _MISSING:
                self._halfs[place], self._state[place] = vector, state
            elif self._state[place] == state and np.array_equal(self._halfs[place], vector):
                self.repeated += 1
            else:
                self._state[place] = _TWICE

    def parts(self, size: int) -> Iterator[pa.Table]:
        """Rows of the embeddings schema, `size` at a time; photos without a usable vector have the reason."""
        for start in range(0, max(1, len(self.ids)), size):
            here = slice(start, start + size)
            failures = [_FAILURES.get(state) for state in self._state[here].tolist()]
            yield embedding_rows(self.ids[here], self._halfs[here].astype(np.float32), failures)

    def some(self, count: int) -> tuple[Ids, Floats]:
        """Up to `count` photos with a vector, spread over all: ids [m] and vectors, float32 [m, d]."""
        good = np.flatnonzero(self._state == _GOOD)
        chosen = (
            good[np.unique(np.linspace(0, len(good) - 1, min(count, len(good))).astype(int))] if len(good) else good
        )
        return self.ids[chosen], self._halfs[chosen].astype(np.float32)

    def counts(self) -> dict[str, float]:
        """Numbers for the manifest and MLflow."""
        unknown = 0 if self.join is None else self.join.unknown + self.join.unnamed
        return {"unknown_rows": float(unknown), "repeated_rows": float(self.repeated)}

    def remarks(self) -> tuple[str, ...]:
        """Notes for a reader of the results."""
        found = []
        if self.join is not None and self.join.unknown:
            found.append(
                f"{self.join.unknown:,} vectors of photos that the samples do not have, e.g. {self.join.unlike()}"
            )
        if self.join is not None and self.join.unnamed:
            found.append(f"{self.join.unnamed:,} vectors without a photo, left out")
        if self.repeated:
            found.append(f"{self.repeated:,} vectors are there again, left out")
        return tuple(f"{FIELD}.path: {remark}" for remark in found)


@contextmanager
def matched(file: VectorFile, ids: Ids, samples: Table, folder: str) -> Iterator[MatchedVectors]:
    """The file's vectors for the photos `ids` (int64, ascending); they lie in a temporary file until the end.

    Raises:
        VectorFileError: the file is in the order of the samples and has not as many rows; or none of its rows is of a
            photo of the samples.
    """
    photos, join = _photos(file, samples, folder)
    with tempfile.TemporaryDirectory(prefix="fgvr-vectors-") as place:
        found = MatchedVectors(ids, _new_file(Path(place) / "vectors.f16", max(1, len(ids)), file.dim), join)
        start = 0
        for block in file.vectors():
            found.add(photos[start : start + len(block)], block)
            start += len(block)
        yield found


def _new_file(place: Path, rows: int, dim: int) -> npt.NDArray[np.float16]:
    """A file of zeros in memory, float16 [rows, dim]; raises StorageFull.

    Its blocks are reserved now: a disk that is full later would end the process with a bus error.
    """
    with full_disk(place, ROOM), place.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, 2 * rows * dim)
        else:
            file.truncate(2 * rows * dim)
    return np.memmap(place, np.float16, "r+", shape=(rows, dim))


def _photos(file: VectorFile, samples: Table, folder: str) -> tuple[Ids, ImageJoin | None]:
    """The id of the photo of each row, int64 [rows], -1 where the samples do not have it."""
    where = f"{FIELD}.path = {file.source.path}"
    if file.key is None:
        if file.rows != samples.rows:
            raise VectorFileError(
                f"{where}: {file.rows:,} vectors for {samples.rows:,} photos; in the order of the samples "
                f"({FIELD}.order) there is one for each"
            )
        return np.arange(file.rows, dtype=np.int64), None
    join = ImageJoin(samples, folder, ROW, by_id=file.by_id)
    start = 0
    for keys in file.photos():
        join.add(keys, pa.table([np.arange(start, start + len(keys))], schema=ROW))
        start += len(keys)
    photos = np.full(file.rows, -1, np.int64)
    for block in join:
        photos[block["row"].to_numpy()] = block["image_id"].to_numpy()
    if not join.matched:
        raise VectorFileError(
            f"{where}: none of its {file.rows:,} vectors is of a photo of the samples: "
            f"{join.unlike() or 'none names a photo'}"
        )
    return photos, join


def _unit(block: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.bool_]]:
    """The vectors with length 1, float16 [n, d], and whether each has a direction, bool [n]; zeros for the others."""
    wide = block.astype(np.float64)
    # Divided by the largest value first: the squares of very large or small numbers are not representable.
    largest = np.abs(wide).max(axis=1, initial=0, keepdims=True)
    good = (np.isfinite(largest) & (largest > 0))[:, 0]
    wide = np.where(good[:, None], wide, 0) / np.where(good[:, None], largest, 1)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(good[:, None], lengths, 1)).astype(np.float16), good


def check_encoder(source: FileVectors, found: Floats, embedded: Floats) -> None:
    """Raise VectorFileError if the encoder that the config names gives the probed photos other vectors.

    Args:
        source: the file.
        found: the file's vectors of the photos, unit length, float32 [m, d].
        embedded: those of the encoder, float32 [m, e]; without photos nothing is checked.
    """
    if not len(embedded):
        return
    if found.shape[1] != embedded.shape[1]:
        raise VectorFileError(
            f"{FIELD}.encoder: its vectors have {embedded.shape[1]} numbers, those of {source.path} {found.shape[1]}: "
            "they are of another model"
        )
    cosine = float(np.median((found * embedded).sum(axis=1)))
    if cosine < LOWEST_COSINE:
        raise VectorFileError(
            f"{FIELD}.encoder: {len(found)} photos were embedded again, and the cosine of their two vectors is "
            f"{cosine:.2f} (median; {LOWEST_COSINE} is expected at least): {source.path} is of another model, or in "
            "another order"
        )
