"""A student's training images with all targets, in files that all workers of a machine memory-map.

For a hundred million images, memory holds neither a string per URI nor a row of answers per image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numpy.lib.mixins import NDArrayOperatorsMixin

from fgvr import storage
from fgvr.array_files import open_array, save_array, save_blocks
from fgvr.arrays import Ids
from fgvr.tables import Table

IDS, CLASSES, HELD_OUT, URIS = "image_ids.npy", "classes.npy", "held_out.npy", "uris.arrow"
ANSWERED, ANSWERS = "answered.npy", "answers.npy"
WEIGHTS, SOFT_IDS, SOFT_SHARES = "weights.npy", "soft_ids.npy", "soft_shares.npy"
FACTS = "examples.json"
URIS_AT_ONCE = 2**16
"""URIs per batch of the URI file."""
ROWS_AT_ONCE = 2**16
"""Rows of answers that are processed together."""

Answers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SoftClasses:
    """Probable classes of N images.

    Attributes:
        label_ids: int32 [N, k], best first; −1 in unused places.
        probabilities: float16 [N, k]; those of an image sum to 1.
    """

    label_ids: npt.NDArray[np.int32]
    probabilities: npt.NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.label_ids)

    def __getitem__(self, positions: Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Classes and probabilities of some images, as a loss takes them."""
        return self.label_ids[positions].astype(np.int64), self.probabilities[positions].astype(np.float32)

    def chosen(self, images: npt.NDArray[np.bool_]) -> SoftClasses:
        """Those of some images, bool [N], as if there were no others."""
        return SoftClasses(self.label_ids[images], self.probabilities[images])


@dataclass(frozen=True)
class Examples:
    """N images with their targets.

    Attributes:
        image_ids: int64 [N].
        uris: where the images are.
        classes: int64 [N], class targets; −1: none (only the aspects are learned).
        p_yes: float32 [N, Q], p(yes) in 0 … 1; nan if the MLLM gave none, which the loss ignores.
        held_out: bool [N]: used for validation instead of training.
        identity: what determines the images' content, see `fgvr.training.image_store`.
        weights: how much the class target of each image counts, float32 [N]; None: all alike.
        soft: probable classes of each image; None: `classes` are certain.
    """

    image_ids: npt.NDArray[np.int64]
    uris: Sequence[str]
    classes: npt.NDArray[np.int64]
    p_yes: Answers | AspectAnswers
    held_out: npt.NDArray[np.bool_]
    identity: str
    weights: npt.NDArray[np.float32] | None = None
    soft: SoftClasses | None = None

    def __post_init__(self) -> None:
        sizes = {len(self.image_ids), len(self.uris), len(self.classes), len(self.p_yes), len(self.held_out)}
        sizes |= {len(each) for each in (self.weights, self.soft) if each is not None}
        if len(sizes) != 1 or self.p_yes.ndim != 2:
            raise ValueError(f"examples of different lengths: {sorted(sizes)}")
        for rows, values in self.answers.blocks():
            wrong = ~np.isnan(values) & ~((values >= 0) & (values <= 1))
            if wrong.any():
                row, question = np.argwhere(wrong)[0]
                raise ValueError(
                    f"p(yes) of image {self.image_ids[rows[row]]}, question {question}: "
                    f"{values[row, question]} is not in 0 … 1"
                )

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def answers(self) -> AspectAnswers:
        """`p_yes` of the images that have answers."""
        return AspectAnswers.of(self.p_yes)

    def first_aspects(self, count: int) -> Examples:
        """The same for a student with `count` aspect outputs, the questions with the best ranks; 0: no aspects.

        Raises ValueError if fewer questions were asked.
        """
        if count > self.p_yes.shape[1]:
            raise ValueError(f"a student of {count} questions on examples with answers to {self.p_yes.shape[1]}")
        first = self.answers.first(count)
        return replace(self, p_yes=first)

    def write(self, uri: str) -> None:
        """Write a folder of files that can be memory-mapped; holds only one block of URIs or answers in memory."""
        answers = self.answers
        arrays: dict[str, npt.NDArray[Any]] = {IDS: self.image_ids, CLASSES: self.classes, HELD_OUT: self.held_out}
        if self.weights is not None:
            arrays[WEIGHTS] = self.weights
        if self.soft is not None:
            arrays |= {SOFT_IDS: self.soft.label_ids, SOFT_SHARES: self.soft.probabilities}
        for name, array in arrays.items():
            save_array(storage.join(uri, name), array)
        with storage.new_file(storage.join(uri, URIS)) as file:
            write_uris(file, self.uris)
        save_array(storage.join(uri, ANSWERED), answers.rows)
        shape = (len(answers.rows), answers.shape[1])
        save_blocks(storage.join(uri, ANSWERS), "<f2", shape, (values for _, values in answers.blocks()))
        facts = {"identity": self.identity, "files": sorted(arrays)}
        storage.write_bytes(storage.join(uri, FACTS), json.dumps(facts).encode())

    @classmethod
    def read(cls, uri: str) -> Examples:
        """Memory-map what `write` wrote; p(yes) was rounded to fp16 (steps of at most 5e-4)."""
        folder = storage.fetch_folder(uri)
        facts = json.loads((folder / FACTS).read_bytes())
        ids, classes, held_out, answered, values = (
            open_array(folder / name) for name in (IDS, CLASSES, HELD_OUT, ANSWERED, ANSWERS)
        )
        there = facts.get("files", ())  # files of earlier versions have no list, and none of those below
        return cls(
            image_ids=ids,
            uris=MappedUris(str(folder / URIS)),
            classes=classes,
            p_yes=AspectAnswers(len(ids), answered, values),
            held_out=held_out,
            identity=facts["identity"],
            weights=open_array(folder / WEIGHTS) if WEIGHTS in there else None,
            soft=SoftClasses(open_array(folder / SOFT_IDS), open_array(folder / SOFT_SHARES))
            if SOFT_IDS in there
            else None,
        )


class Values(Protocol):
    """Answers [A, Q] by row: an array, a memory map, or numbers generated on request."""

    @property
    def shape(self) -> tuple[int, ...]:
        """A and Q."""

    def __getitem__(self, rows: Any) -> npt.NDArray[Any]:
        """The values of these rows."""


class AspectAnswers(NDArrayOperatorsMixin):
    """p(yes) of N images and Q questions that stores rows only for images with answers.

    Behaves like the array float32 [N, Q] with nan elsewhere: `answers[positions]`, or converted as a whole.

    Attributes:
        shape: N and Q.
        rows: positions of the images with answers, int64 [A], ascending.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, images: int, rows: Ids, values: Values, *, places: Ids | None = None, width: int | None = None):
        """`places`: index in `values` of each row, int64 [A]; None: the same order. `width`: first questions to use."""
        self.rows, self._values, self._places = rows, values, places
        self.shape = (images, values.shape[1] if width is None else width)
        if len(rows) != (values.shape[0] if places is None else len(places)):
            raise ValueError(f"{len(rows)} images with answers, and {values.shape[0]} rows of answers")

    @classmethod
    def of(cls, p_yes: Answers | AspectAnswers) -> AspectAnswers:
        """Convert an array float32 [N, Q] with nan for missing answers."""
        if isinstance(p_yes, AspectAnswers):
            return p_yes
        rows = np.flatnonzero(~np.isnan(p_yes).all(axis=1)) if p_yes.shape[1] else np.zeros(0, np.int64)
        return cls(len(p_yes), rows, p_yes, places=rows)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        positions, columns = key if isinstance(key, tuple) else (key, slice(None))
        if isinstance(positions, slice):
            chosen = np.arange(*positions.indices(len(self)))
        else:
            chosen = np.asarray(positions)
            chosen = (
                np.flatnonzero(chosen) if chosen.dtype == bool else np.where(chosen < 0, chosen + len(self), chosen)
            )
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise IndexError(f"there are {len(self)} images")
        return self._dense(np.atleast_1d(chosen))[0 if chosen.ndim == 0 else slice(None)][..., columns]

    def _dense(self, positions: Ids) -> Answers:
        found = np.full((len(positions), self.shape[1]), np.nan, dtype=np.float32)
        if len(self.rows) and len(positions):
            at = np.minimum(np.searchsorted(self.rows, positions), len(self.rows) - 1)
            hit = self.rows[at] == positions
            found[hit] = self._held(at[hit])
        return found

    def _held(self, rows: Any) -> Answers:
        """Answers of stored rows (not positions), float32 [n, Q]."""
        values = self._values[rows if self._places is None else self._places[rows]]
        first: Answers = values[:, : self.shape[1]].astype(np.float32, copy=False)
        return first

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self._dense(np.arange(len(self))), dtype=dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        arrays = [np.asarray(each) if isinstance(each, AspectAnswers) else each for each in inputs]
        return getattr(ufunc, method)(*arrays, **kwargs)

    def first(self, count: int) -> AspectAnswers:
        """The answers to the first questions."""
        return AspectAnswers(len(self), self.rows, self._values, places=self._places, width=count)

    def chosen(self, images: npt.NDArray[np.bool_]) -> AspectAnswers:
        """The answers of some images, bool [N], as if there were no others."""
        kept = np.flatnonzero(images[self.rows])
        rows = (np.cumsum(images) - 1)[self.rows[kept]]
        places = kept if self._places is None else self._places[kept]
        return AspectAnswers(int(images.sum()), rows, self._values, places=places, width=self.shape[1])

    def blocks(self) -> Iterator[tuple[Ids, Answers]]:
        """Positions and answers of the images that have answers, float32 [n, Q], block by block."""
        for start in range(0, len(self.rows), ROWS_AT_ONCE):
            yield self.rows[start : start + ROWS_AT_ONCE], self._held(slice(start, start + ROWS_AT_ONCE))

    @property
    def answered(self) -> npt.NDArray[np.bool_]:
        """Which images have an answer to any question: bool [N]."""
        some = np.zeros(len(self), dtype=bool)
        for rows, values in self.blocks():
            some[rows] = ~np.isnan(values).all(axis=1)
        return some


class Uris(Sequence[str]):
    """A sequence of URIs stored elsewhere; compares by content, slices are lists."""

    def __init__(self, count: int) -> None:
        """`count`: number of URIs."""
        self._count = count

    def read(self, positions: npt.NDArray[np.int64]) -> list[str]:
        """The URIs at ascending positions."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            positions = np.arange(*index.indices(len(self)))
            return self.read(positions) if index.step is None or index.step > 0 else self.read(positions[::-1])[::-1]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"there are {len(self)} images")
        return self.read_one(position)

    def read_one(self, position: int) -> str:
        """The URI at a position."""
        return self.read(np.array([position]))[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), URIS_AT_ONCE):
            yield from self[start : start + URIS_AT_ONCE]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


class SampleUris(Uris):
    """URIs of some images of the samples table, read from it on request."""

    def __init__(self, samples: Table, image_ids: npt.NDArray[np.int64]) -> None:
        """`image_ids`: int64 [N], ascending."""
        super().__init__(len(image_ids))
        self._samples, self._ids = samples, image_ids

    def read(self, positions: npt.NDArray[np.int64]) -> list[str]:
        """Read them from the row groups that hold them."""
        uris: list[str] = self._samples.take(self._ids[positions], ["uri"])["uri"].to_pylist()
        return uris


class MappedUris(Uris):
    """URIs in a memory-mapped Arrow file, in batches of URIS_AT_ONCE."""

    def __init__(self, path: str) -> None:
        """`path`: a file written by `write_uris`."""
        batches = pa.ipc.open_file(pa.memory_map(path))
        self._chunks = [batches.get_batch(number).column(0) for number in range(batches.num_record_batches)]
        super().__init__(sum(len(chunk) for chunk in self._chunks))

    def read(self, positions: npt.NDArray[np.int64]) -> list[str]:
        """Read them from the pages that hold them."""
        found: list[str] = []
        if not len(positions):
            return found
        numbers, first = np.unique(positions // URIS_AT_ONCE, return_index=True)
        for number, places in zip(numbers.tolist(), np.split(positions % URIS_AT_ONCE, first[1:]), strict=True):
            found += self._chunks[number].take(pa.array(places)).to_pylist()
        return found

    def read_one(self, position: int) -> str:
        """A faster path for reading millions of URIs one by one."""
        uri: str = self._chunks[position // URIS_AT_ONCE][position % URIS_AT_ONCE].as_py()
        return uri


def write_uris(file: Any, uris: Sequence[str]) -> None:
    """Write URIs to a file open for writing; holds only one block of them in memory."""
    schema = pa.schema([pa.field("uri", pa.string(), nullable=False)])
    with pa.ipc.new_file(file, schema) as writer:
        for start in range(0, len(uris), URIS_AT_ONCE):
            writer.write_batch(
                pa.record_batch([pa.array(uris[start : start + URIS_AT_ONCE], pa.string())], schema=schema)
            )
