"""Where millions of images are, without a Python string for each: read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgvr.tables import Table

BLOCK = 2**16


class Uris(Sequence[str]):
    """A sequence of URIs that lie elsewhere; compares by content, slices are lists."""

    def __init__(self, count: int) -> None:
        """`count`: of them."""
        self._count = count

    def read(self, positions: npt.NDArray[np.int64]) -> list[str]:
        """Those at ascending positions."""
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
        """That at a position."""
        return self.read(np.array([position]))[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BLOCK):
            yield from self[start : start + BLOCK]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


class SampleUris(Uris):
    """Those of some images of the samples table, which is read when they are asked for."""

    def __init__(self, samples: Table, image_ids: npt.NDArray[np.int64]) -> None:
        """`image_ids`: int64 [N], ascending."""
        super().__init__(len(image_ids))
        self._samples, self._ids = samples, image_ids

    def read(self, positions: npt.NDArray[np.int64]) -> list[str]:
        """From the row groups that hold them."""
        uris: list[str] = self._samples.take(self._ids[positions], ["uri"])["uri"].to_pylist()
        return uris


class MappedUris(Uris):
    """Those of an Arrow file that is memory-mapped, in batches of BLOCK."""

    def __init__(self, path: str) -> None:
        """`path`: as `write_uris` left it."""
        batches = pa.ipc.open_file(pa.memory_map(path))
        self._chunks = [batches.get_batch(number).column(0) for number in range(batches.num_record_batches)]
        super().__init__(sum(len(chunk) for chunk in self._chunks))

    def read(self, positions: npt.NDArray[np.int64]) -> list[str]:
        """From the pages that hold them."""
        found: list[str] = []
        if not len(positions):
            return found
        numbers, first = np.unique(positions // BLOCK, return_index=True)
        for number, places in zip(numbers.tolist(), np.split(positions % BLOCK, first[1:]), strict=True):
            found += self._chunks[number].take(pa.array(places)).to_pylist()
        return found

    def read_one(self, position: int) -> str:
        """Of millions they are asked for one after the other."""
        uri: str = self._chunks[position // BLOCK][position % BLOCK].as_py()
        return uri


def write_uris(file: Any, uris: Sequence[str]) -> None:
    """Into a file that is open for writing; no more than a block of them is held."""
    schema = pa.schema([pa.field("uri", pa.string(), nullable=False)])
    with pa.ipc.new_file(file, schema) as writer:
        for start in range(0, len(uris), BLOCK):
            writer.write_batch(pa.record_batch([pa.array(uris[start : start + BLOCK], pa.string())], schema=schema))
