"""Photos of a run by name, on this machine's disk: made once per table, then read a page at a time.

The table of names has a row per photo in the order of the photos. The index has them in the order of the names (a
counting sort, a part at a time), in memory-mapped files: a page of a name is a slice, whatever the number of photos.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fgvr import storage
from fgvr.arrays import Ids
from fgvr.tables import Table

QUEUE: Final = 2000
"""Photos of a queue: nobody looks at more in a day."""
VERSION: Final = 1

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NameIndex:
    """Photos by name.

    Attributes:
        names: distinct names as they stand in the table, in alphabetical order.
        starts: where each name's photos begin, int64 [names + 1].
        ids: image ids in the order of the names, int64 [photos], memory-mapped.
        scores: confidence of each, float32 [photos], memory-mapped; NaN where there is none.
        means: mean confidence by name, float32 [names].
        unsure: ids of the least confident photos, the least first, int64 [at most QUEUE].
        useful: ids of photos that are not sure and whose name has many photos, int64 [at most QUEUE].
    """

    names: list[str]
    starts: Ids
    ids: Ids
    scores: Scores
    means: Scores
    unsure: Ids
    useful: Ids

    @classmethod
    def of(cls, table: Table) -> NameIndex:
        """The index of a table with the columns image_id and label, and score or logprob; kept in the cache folder."""
        folder = storage.cache_folder("review") / f"{table.name}-{table.version}-{table.rows}-{VERSION}"
        if not (folder / "names.json").exists():
            work = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
            work.mkdir(parents=True)
            _build(table, work)
            try:
                work.rename(folder)
            except OSError:  # another process was faster: its files say the same
                for file in work.iterdir():
                    file.unlink()
                work.rmdir()
        loaded = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ids", "scores")}
        small = {name: np.load(folder / f"{name}.npy") for name in ("starts", "means", "unsure", "useful")}
        return cls(names=json.loads((folder / "names.json").read_text(encoding="utf-8")), **loaded, **small)

    def photos(self, code: int) -> tuple[Ids, Scores]:
        """Ids and scores of a name's photos; views of the files."""
        part = slice(int(self.starts[code]), int(self.starts[code + 1]))
        return self.ids[part], self.scores[part]


def _rows(table: Table) -> Iterator[tuple[Ids, list[str], npt.NDArray[np.int64], Scores]]:
    """Per part: ids, its distinct names, each photo's place among them, and scores; of photos with a name."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for rows in table.batches(["image_id", "label", "logprob" if table.name == "labels" else "score"]):
        named = rows.filter(pc.is_valid(rows["label"]))
        labels = named["label"].combine_chunks()
        if isinstance(labels, pa.ChunkedArray):
            labels = labels.chunk(0) if labels.num_chunks else pa.array([], pa.string())
        coded = labels.dictionary_encode()
        score = named["score"] if "score" in named.schema.names else pc.exp(named["logprob"])
        values = score.to_numpy().astype(np.float32)
        codes = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        yield named["image_id"].to_numpy(), coded.dictionary.to_pylist(), codes, values


def _build(table: Table, folder: Path) -> None:
    counts: dict[str, int] = {}
    for _, names, codes, _ in _rows(table):
        for name, count in zip(names, np.bincount(codes, minlength=len(names)).tolist(), strict=True):
            counts[name] = counts.get(name, 0) + count
    ordered = sorted(counts)
    place = {name: code for code, name in enumerate(ordered)}
    sizes = np.array([counts[name] for name in ordered], np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    total = int(starts[-1])
    ids, scores = _file(folder / "ids.npy", np.int64, total), _file(folder / "scores.npy", np.float32, total)
    following, sums = starts[:-1].copy(), np.zeros(len(ordered))
    unsure, useful = _Best(), _Best()
    for image_ids, names, local, values in _rows(table):
        codes = np.array([place[name] for name in names], np.int64)[local]
        order = np.argsort(codes, kind="stable")
        sorted_codes = codes[order]
        first = np.searchsorted(sorted_codes, sorted_codes, side="left")
        positions = following[sorted_codes] + np.arange(len(order)) - first
        ids[positions], scores[positions] = image_ids[order], values[order]
        here = np.bincount(codes, minlength=len(ordered))
        following += here
        sums += np.bincount(codes, weights=np.nan_to_num(values), minlength=len(ordered))
        doubt = 1 - np.nan_to_num(values, nan=1.0)
        unsure.add(image_ids, doubt)
        useful.add(image_ids, doubt * np.log1p(sizes[codes]).astype(np.float32))
    ids.flush()
    scores.flush()
    np.save(folder / "starts.npy", starts)
    np.save(folder / "means.npy", (sums / np.maximum(sizes, 1)).astype(np.float32))
    np.save(folder / "unsure.npy", unsure.ids)
    np.save(folder / "useful.npy", useful.ids)
    (folder / "names.json").write_text(json.dumps(ordered), encoding="utf-8")


def _file(place: Path, kind: type[np.generic], rows: int) -> np.memmap[Any, Any]:
    """A new .npy file of so many values, memory-mapped."""
    made: np.memmap[Any, Any] = np.lib.format.open_memmap(place, "w+", kind, (rows,))  # type: ignore[no-untyped-call]
    return made


class _Best:
    """The ids with the largest values so far, the largest first."""

    def __init__(self) -> None:
        self.ids, self._values = np.zeros(0, np.int64), np.zeros(0, np.float32)

    def add(self, ids: Ids, values: Scores) -> None:
        ids, values = np.concatenate([self.ids, ids]), np.concatenate([self._values, values])
        best = np.argsort(-values, kind="stable")[:QUEUE]
        self.ids, self._values = ids[best], values[best]
