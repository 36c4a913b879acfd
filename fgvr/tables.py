"""A finished stage's output: Parquet parts in a folder, with a manifest that is written last.

Part p holds the rows at positions [p·R, (p+1)·R) of the stage's ids, so a part's number determines its content: to
resume means to compute the missing parts, and a part written twice is the same part.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fgvr import storage
from fgvr.failures import Example
from fgvr.prefetch import read_ahead

MANIFEST = "manifest.json"
SUMMARY = b"fgvr.summary"
"""Key of a part's summary in its Parquet footer."""
GROWN = "grown"
"""Key in the metadata of the samples: earlier listings of which this one has all photos under the same ids, each with
its fingerprint and its number of rows."""
GROUP_ROWS = 4096
"""Rows per row group: to get a few rows of a large part, only their groups are read."""
READERS = 8
"""Parts read in parallel when many are needed: on an object store each one costs a round trip."""


def part_name(number: int) -> str:
    """File name of a part; names sort like the numbers up to 100 million parts."""
    return f"part-{number:08d}.parquet"


def write_part(folder: str, number: int, rows: pa.Table) -> int:
    """Write one part atomically; returns its size in bytes."""
    sink = io.BytesIO()
    # fp16 vectors do not compress; uncompressed pages can be read without a copy.
    vectors = [name for name in rows.schema.names if pa.types.is_fixed_size_binary(rows.schema.field(name).type)]
    compression = {n: "NONE" if n in vectors else "ZSTD" for n in rows.schema.names}
    pq.write_table(rows, sink, compression=compression, row_group_size=GROUP_ROWS)
    storage.write_bytes(storage.join(folder, part_name(number)), sink.getvalue())
    return sink.tell()


def finished_parts(folder: str) -> set[int]:
    """Numbers of the parts that exist."""
    return {int(name[5:-8]) for name in storage.list_files(folder, ".parquet") if name.startswith("part-")}


def read_part(folder: str, number: int, columns: list[str] | None = None) -> pa.Table:
    """One part as a table; raises FileNotFoundError."""
    place = storage.join(folder, part_name(number))
    if columns is None:
        return pq.read_table(pa.BufferReader(storage.read_bytes(place)))
    filesystem, path = storage.arrow_filesystem(place)  # reads only the pages of these columns
    return pq.read_table(path, filesystem=filesystem, columns=columns, partitioning=None)


def read_places(folder: str, number: int, places: npt.NDArray[np.int64], columns: list[str] | None = None) -> pa.Table:
    """Rows of one part at the given positions (ascending): only the row groups that hold them are read."""
    with _opened(folder, number) as file:
        sizes = np.array([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)], np.int64)
        of = np.searchsorted(np.cumsum(sizes), places, side="right")
        groups, of = np.unique(of, return_inverse=True)
        rows = file.read_row_groups(groups.tolist(), columns=columns)
        skipped = (np.cumsum(sizes) - sizes)[groups] - (np.cumsum(sizes[groups]) - sizes[groups])
        return rows.take(pa.array(places - skipped[of]))


def read_among(folder: str, number: int, ids: npt.NDArray[np.int64], columns: list[str] | None = None) -> pa.Table:
    """Rows of one part whose `image_id` is among `ids` (ascending): row groups without any of them are not read.

    Args:
        folder: the table's folder.
        number: the part's number.
        ids: int64 [N], ascending.
        columns: columns to read, `image_id` included; None: all.
    """
    with _opened(folder, number) as file:
        groups = [group for group in range(file.num_row_groups) if _may_hold(file.metadata.row_group(group), ids)]
        return rows_among(file.read_row_groups(groups, columns=columns), ids)


@contextmanager
def _opened(folder: str, number: int) -> Iterator[pq.ParquetFile]:
    filesystem, path = storage.arrow_filesystem(storage.join(folder, part_name(number)))
    with pq.ParquetFile(path, filesystem=filesystem, pre_buffer=True) as file:
        yield file


def _may_hold(group: pq.RowGroupMetaData, ids: npt.NDArray[np.int64]) -> bool:
    """Whether any of `ids` (ascending) lies between a row group's smallest and largest image id."""
    bounds = _bounds(group)
    if bounds is None:
        return True
    first, end = np.searchsorted(ids, [bounds[0], bounds[1] + 1])
    return bool(first < end)


def _bounds(group: pq.RowGroupMetaData) -> tuple[int, int] | None:
    """Smallest and largest image id of a row group; None if the file does not state them."""
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema == "image_id":
            facts = column.statistics
            return (facts.min, facts.max) if facts is not None and facts.has_min_max else None
    return None


def part_metadata(folder: str, number: int) -> dict[bytes, bytes]:
    """Key-value metadata of a part's footer, read without its rows."""
    filesystem, path = storage.arrow_filesystem(storage.join(folder, part_name(number)))
    return dict(pq.read_schema(path, filesystem=filesystem).metadata or {})


def part_summary(folder: str, number: int) -> dict[str, Any]:
    """A row-parallel part's summary in its footer: `rows`, token `totals`, `failures` and `examples` by reason.

    There is one example row per failure reason; parts written by earlier versions have no `examples`.
    """
    facts: dict[str, Any] = json.loads(part_metadata(folder, number)[SUMMARY])
    return facts


def conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows of an earlier version in today's schema: columns and struct fields that they lack become null."""
    return pa.concat_tables([schema.empty_table(), rows], promote_options="default").cast(schema)


def _together(parts: list[pa.Table]) -> pa.Table:
    """Parts of one table, some of which an earlier version wrote and a later one continued."""
    return pa.concat_tables(parts, promote_options="default")


def _several(read: Callable[[Any], pa.Table], items: Sequence[Any]) -> Iterator[pa.Table]:
    """The parts in order, with only a few of them in memory."""
    return read_ahead(read, items, threads=READERS if len(items) > 1 else 0, ahead=READERS)


def _empty(folder: str, columns: list[str] | None) -> pa.Table:
    """A table without rows, with the right column types."""
    with _opened(folder, 0) as file:
        return file.read_row_groups([], columns=columns)


class Rows(Protocol):
    """Rows that are found by their dense ids: a table, or what stands in its place."""

    def take(self, ids: npt.NDArray[np.int64], columns: list[str] | None = None) -> pa.Table:
        """The rows of these ids, int64 [n], in their order."""
        ...


@dataclass(frozen=True)
class Table:
    """A complete stage output.

    Attributes:
        uri: the table's folder.
        name: the stage's table, e.g. "labels".
        fingerprint: hash of everything that determined the content.
        rows: number of rows, failed ones included.
        failed: rows with `error` set.
        failures: failed rows by reason code.
        parts: number of part files.
        rows_per_part: R; the last part may be shorter.
        seconds: wall time of all sessions that worked on it, including retries of failed rows.
        revision: increases when failed rows were retried; together with the fingerprint it identifies the content.
        extra: small facts for later stages and the report (JSON types only).
        examples: one failed row per reason; empty for tables written by earlier versions.
        made_with: versions and device kinds of the sessions that worked on it (`fgvr.versions`); empty for tables
        written by earlier versions.
        limits: for row-parallel tables, the lowest image limits under which rows were computed.
    """

    uri: str
    name: str
    fingerprint: str
    rows: int
    failed: int
    parts: int
    rows_per_part: int
    seconds: float
    revision: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    examples: dict[str, Example] = field(default_factory=dict)
    made_with: list[dict[str, str]] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, uri: str, manifest: str = MANIFEST) -> Table:
        """Read the manifest of a finished folder; raises FileNotFoundError if the stage has not finished."""
        facts = json.loads(storage.read_bytes(storage.join(uri, manifest)))
        facts["examples"] = {reason: Example(**row) for reason, row in facts.get("examples", {}).items()}
        return cls(**{**facts, "uri": uri})  # the run folder may have been moved or copied

    @property
    def version(self) -> str:
        """What later stages include in their own fingerprints."""
        return f"{self.fingerprint}.{self.revision}"

    def commit(self) -> None:
        """Write the manifest: from now on the table counts as complete."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True)
        storage.write_bytes(storage.join(self.uri, MANIFEST), text.encode())

    def path(self, *names: str) -> str:
        """URI of a file beside the parts."""
        return storage.join(self.uri, *names)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """All rows, in the order in which they were written (ascending ids)."""
        return _together([read_part(self.uri, number, columns) for number in range(self.parts)])

    def batches(self, columns: list[str] | None = None) -> Any:
        """The parts one after the other, for tables that should not be held in memory as a whole."""
        for number in range(self.parts):
            yield read_part(self.uri, number, columns)

    def take(self, ids: npt.NDArray[np.int64], columns: list[str] | None = None) -> pa.Table:
        """Rows of a *dense* table (row i has image_id i), in the order of `ids`; reads only their row groups.

        Needs memory for these rows and for the groups being read. Raises IndexError for ids outside the table.
        """
        ids = np.asarray(ids, dtype=np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= self.rows):
            raise IndexError(f"table {self.name} has rows 0..{self.rows - 1}; asked for {ids.min()}..{ids.max()}")
        if not ids.size:
            return _empty(self.uri, columns)
        wanted, back = np.unique(ids, return_inverse=True)
        numbers, first = np.unique(wanted // self.rows_per_part, return_index=True)
        places = np.split(wanted % self.rows_per_part, first[1:])

        def read(item: tuple[int, npt.NDArray[np.int64]]) -> pa.Table:
            return read_places(self.uri, item[0], item[1], columns)

        items = list(zip(numbers.tolist(), places, strict=True))
        rows = _together(list(_several(read, items)))
        return rows if np.array_equal(ids, wanted) else rows.take(pa.array(back))

    def batches_of(self, ids: npt.NDArray[np.int64], columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Those rows of `ids` (int64 [N], ascending) that exist, in the table's order, one part at a time.

        Parts and row groups without any of them are not read; several parts are read in parallel. If no part holds any,
        one empty batch is returned.
        """
        columns = columns if columns is None or "image_id" in columns else ["image_id", *columns]

        def read(number: int) -> pa.Table:
            return read_among(self.uri, number, ids, columns)

        numbers = self._parts_around(ids)
        if not len(numbers):
            yield _empty(self.uri, columns)
        yield from _several(read, numbers)

    def _parts_around(self, ids: npt.NDArray[np.int64]) -> list[int]:
        """Numbers of the parts that may hold any of `ids` (ascending).

        Image ids are distinct and ascending. So the id at position i is at least i, and at most the last row's id minus
        the number of rows after i. For a dense table this gives the exact position of every id.
        """
        if not len(ids) or not self.rows:
            return []
        numbers, everywhere = np.arange(self.parts, dtype=np.int64), list(range(self.parts))
        if not (self.parts - 1) * self.rows_per_part < self.rows <= self.parts * self.rows_per_part:
            return everywhere  # the parts differ in size
        with _opened(self.uri, self.parts - 1) as file:
            bounds = _bounds(file.metadata.row_group(file.num_row_groups - 1)) if file.num_row_groups else None
        if bounds is None:
            return everywhere
        starts = numbers * self.rows_per_part
        ends = np.minimum(starts + self.rows_per_part, self.rows)
        largest = bounds[1] - (self.rows - ends)
        around = np.searchsorted(ids, starts) < np.searchsorted(ids, largest, side="right")
        return [number for number in everywhere if around[number]]

    def find(self, ids: npt.NDArray[np.int64], columns: list[str] | None = None) -> pa.Table:
        """Those rows of `ids` that exist, in the table's order; for tables that are not dense."""
        return _together(list(self.batches_of(np.unique(np.asarray(ids, dtype=np.int64)), columns)))

    def good(self, columns: list[str] | None = None) -> pa.Table:
        """Rows without an error."""
        wanted = None if columns is None else [*columns, *([] if "error" in columns else ["error"])]
        rows = self.read(wanted)
        rows = rows.filter(pc.is_null(rows["error"]))
        return rows if columns is None else rows.select(columns)


def rows_among(rows: pa.Table, ids: npt.NDArray[np.int64]) -> pa.Table:
    """The rows whose `image_id` is among `ids` (int64 [N], ascending), in their own order.

    `pc.is_in` would hash all N ids again for every part of a table: 2.6 seconds per part for ten million ids.
    """
    if not len(ids):
        return rows.slice(0, 0)
    own = rows["image_id"].to_numpy()
    return rows.filter(pa.array(ids[np.minimum(np.searchsorted(ids, own), len(ids) - 1)] == own))


def vectors(column: pa.ChunkedArray) -> npt.NDArray[np.float16]:
    """A fixed-size-binary fp16 column without nulls as an array [N, dim]; a view of Arrow's memory if possible."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # combining the chunks of an empty column gives no chunk
        array = array.chunk(0) if array.num_chunks else pa.array([], type=column.type)
    width = array.type.byte_width
    if array.null_count:
        raise ValueError("the column holds failed rows: filter them out first")
    data = array.buffers()[1]
    if data is None:
        return np.zeros((0, width // 2), dtype="<f2")
    flat = np.frombuffer(data, dtype="<f2", offset=array.offset * width, count=len(array) * width // 2)
    return flat.reshape(len(array), width // 2)
