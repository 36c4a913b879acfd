"""The MLLM's answers about a student's training images: of millions of images it was asked about some."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

Ids = npt.NDArray[np.int64]
Answers = npt.NDArray[np.float32]

BLOCK = 2**16
"""Rows that are looked at together."""


class Values(Protocol):
    """Answers [A, Q] by row: an array, a memory map, or numbers that are made when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """A and Q."""

    def __getitem__(self, rows: Any) -> npt.NDArray[Any]:
        """Of these rows."""


class AspectAnswers(NDArrayOperatorsMixin):
    """p(yes) of N images and Q questions, of which only the rows of images with answers are held.

    Reads like the array float32 [N, Q] with nan elsewhere: `answers[positions]`, and as a whole where one is wanted.

    Attributes:
        shape: N and Q.
        rows: positions of the images with answers, int64 [A], ascending.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, images: int, rows: Ids, values: Values, *, places: Ids | None = None, width: int | None = None):
        """`places`: of the rows in `values`, int64 [A]; None: they are its rows. `width`: its first questions only."""
        self.rows, self._values, self._places = rows, values, places
        self.shape = (images, values.shape[1] if width is None else width)
        if len(rows) != (values.shape[0] if places is None else len(places)):
            raise ValueError(f"{len(rows)} images with answers, and {values.shape[0]} rows of answers")

    @classmethod
    def of(cls, p_yes: Answers | AspectAnswers) -> AspectAnswers:
        """Of an array float32 [N, Q], nan where there is no answer."""
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
        """Answers of held rows (not of positions), float32 [n, Q]."""
        values = self._values[rows if self._places is None else self._places[rows]]
        first: Answers = values[:, : self.shape[1]].astype(np.float32, copy=False)
        return first

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self._dense(np.arange(len(self))), dtype=dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        arrays = [np.asarray(each) if isinstance(each, AspectAnswers) else each for each in inputs]
        return getattr(ufunc, method)(*arrays, **kwargs)

    def first(self, count: int) -> AspectAnswers:
        """Those to the first questions."""
        return AspectAnswers(len(self), self.rows, self._values, places=self._places, width=count)

    def chosen(self, images: npt.NDArray[np.bool_]) -> AspectAnswers:
        """Those of some of the images, bool [N], which are then all there are."""
        kept = np.flatnonzero(images[self.rows])
        rows = (np.cumsum(images) - 1)[self.rows[kept]]
        places = kept if self._places is None else self._places[kept]
        return AspectAnswers(int(images.sum()), rows, self._values, places=places, width=self.shape[1])

    def blocks(self) -> Iterator[tuple[Ids, Answers]]:
        """Positions and answers of the images that have some, float32 [n, Q], a block after the other."""
        for start in range(0, len(self.rows), BLOCK):
            yield self.rows[start : start + BLOCK], self._held(slice(start, start + BLOCK))

    @property
    def answered(self) -> npt.NDArray[np.bool_]:
        """Which images have an answer to any question: bool [N]."""
        some = np.zeros(len(self), dtype=bool)
        for rows, values in self.blocks():
            some[rows] = ~np.isnan(values).all(axis=1)
        return some
