"""A finished stage's output: Parquet parts in a folder, with a manifest that is written last.

Part p holds the rows of positions [p·R, (p+1)·R) of the stage's ids, so the number of a part says what it must
hold: resuming is doing the parts that are not there, and a part written twice is the same part.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

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
"""Key of a part's summary in its footer."""
GROUP_ROWS = 4096
"""Rows that are read together: who wants a few rows of a large part reads their groups, not the part."""
READERS = 8
"""Parts that are read at once where many are wanted: on an object store each is a wait of its own."""


def part_name(number: int) -> str:
    """File name of a part; sorts in the order of the numbers up to 100 million parts."""
    return f"part-{number:08d}.parquet"


def write_part(folder: str, number: int, rows: pa.Table) -> int:
    """Write one part atomically; returns its size in bytes."""
    sink = io.BytesIO()
    # fp16 vectors do not compress: plain pages keep them readable without a copy.
    vectors = [name for name in rows.schema.names if pa.types.is_fixed_size_binary(rows.schema.field(name).type)]
    compression = {n: "NONE" if n in vectors else "ZSTD" for n in rows.schema.names}
    pq.write_table(rows, sink, compression=compression, row_group_size=GROUP_ROWS)
    storage.write_bytes(storage.join(folder, part_name(number)), sink.getvalue())
    return sink.tell()


def finished_parts(folder: str) -> set[int]:
    """Numbers of the parts that are there."""
    return {int(name[5:-8]) for name in storage.list_files(folder, ".parquet") if name.startswith("part-")}


def read_part(folder: str, number: int, columns: list[str] | None = None) -> pa.Table:
    """One part; raises FileNotFoundError."""
    place = storage.join(folder, part_name(number))
    if columns is None:
        return pq.read_table(pa.BufferReader(storage.read_bytes(place)))
    filesystem, path = storage.arrow_filesystem(place)  # reads only the columns' pages
    return pq.read_table(path, filesystem=filesystem, columns=columns, partitioning=None)


def read_places(folder: str, number: int, places: npt.NDArray[np.int64], columns: list[str] | None = None) -> pa.Table:
    """Rows of one part by their places in it (ascending): only the row groups that hold them are read."""
    with _opened(folder, number) as file:
        sizes = np.array([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)], np.int64)
        of = np.searchsorted(np.cumsum(sizes), places, side="right")
        groups, of = np.unique(of, return_inverse=True)
        rows = file.read_row_groups(groups.tolist(), columns=columns)
        skipped = (np.cumsum(sizes) - sizes)[groups] - (np.cumsum(sizes[groups]) - sizes[groups])
        return rows.take(pa.array(places - skipped[of]))


def read_among(folder: str, number: int, ids: npt.NDArray[np.int64], columns: list[str] | None = None) -> pa.Table:
    """Rows of one part whose `image_id` is among `ids` (ascending): groups without any of them are not read.

    Args:
        folder: of the table.
        number: of the part.
        ids: int64 [N], ascending.
        columns: to read, `image_id` among them; None: all.
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
    """Smallest and largest image id of a row group; None where its writer did not say."""
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema == "image_id":
            facts = column.statistics
            return (facts.min, facts.max) if facts is not None and facts.has_min_max else None
    return None


def part_metadata(folder: str, number: int) -> dict[bytes, bytes]:
    """Key-value metadata in a part's footer, read without its rows."""
    filesystem, path = storage.arrow_filesystem(storage.join(folder, part_name(number)))
    return dict(pq.read_schema(path, filesystem=filesystem).metadata or {})


def part_summary(folder: str, number: int) -> dict[str, Any]:
    """What a row-parallel stage left in a part's footer: `rows`, `totals` of tokens, `failures` by reason, `examples`.

    Of each reason there is one failed row; parts that earlier versions wrote have no `examples`.
    """
    facts: dict[str, Any] = json.loads(part_metadata(folder, number)[SUMMARY])
    return facts


def conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows of an earlier version in today's schema: columns, and fields of structs, that they lack are null."""
    return pa.concat_tables([schema.empty_table(), rows], promote_options="default").cast(schema)


def _together(parts: list[pa.Table]) -> pa.Table:
    """Parts of a table that one version began and a later one went on with."""
    return pa.concat_tables(parts, promote_options="default")


def _several(read: Callable[[Any], pa.Table], items: Sequence[Any]) -> Iterator[pa.Table]:
    """Parts in their order, a few of them in memory."""
    return read_ahead(read, items, threads=READERS if len(items) > 1 else 0, ahead=READERS)


def _empty(folder: str, columns: list[str] | None) -> pa.Table:
    """No rows of a table, with the types of its columns."""
    with _opened(folder, 0) as file:
        return file.read_row_groups([], columns=columns)


@dataclass(frozen=True)
class Table:
    """A complete stage output.

    Attributes:
        uri: the folder.
        name: the stage's table, e.g. "labels".
        fingerprint: of everything that decided the content.
        rows: number of rows, failed ones included.
        failed: rows with `error` set.
        failures: failed rows by reason code.
        parts: number of part files.
        rows_per_part: R; the last part may be shorter.
        seconds: wall time of all sessions that worked on it, retries of failed rows included.
        revision: rises when failed rows were tried again; with the fingerprint it names the content.
        extra: small facts for later stages and the report (JSON types only).
        examples: of each reason a failed row; none of tables that earlier versions wrote.
        made_with: versions and kinds of device of the sessions that worked on it (`fgvr.versions`); none of tables that
            earlier versions wrote.
        limits: of row-parallel tables, the lowest limits of images that rows were computed under.
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
        """Read the manifest of a finished folder; raises FileNotFoundError where the stage has not finished."""
        facts = json.loads(storage.read_bytes(storage.join(uri, manifest)))
        facts["examples"] = {reason: Example(**row) for reason, row in facts.get("examples", {}).items()}
        return cls(**{**facts, "uri": uri})  # a run folder may have been moved or copied

    @property
    def version(self) -> str:
        """What later stages put into their own fingerprint."""
        return f"{self.fingerprint}.{self.revision}"

    def commit(self) -> None:
        """Write the manifest: from here on the table is complete."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True)
        storage.write_bytes(storage.join(self.uri, MANIFEST), text.encode())

    def path(self, *names: str) -> str:
        """URI of a file beside the parts."""
        return storage.join(self.uri, *names)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """All rows, in the order in which they were written (ascending ids)."""
        return _together([read_part(self.uri, number, columns) for number in range(self.parts)])

    def batches(self, columns: list[str] | None = None) -> Any:
        """The parts one after the other, for tables that should not be held whole."""
        for number in range(self.parts):
            yield read_part(self.uri, number, columns)

    def take(self, ids: npt.NDArray[np.int64], columns: list[str] | None = None) -> pa.Table:
        """Rows of *dense* ids (row i of the table has image_id i), in the order of `ids`; reads only their row groups.

        Memory is that of the rows and of the groups that are being read. Raises IndexError for ids outside the table.
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
        """The rows of `ids` (int64 [N], ascending), those that there are, in the table's order and a part at a time.

        Parts and row groups without any of them are not read; several parts are read at once. Where no part holds
        any, one batch without rows.
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

        Image ids are distinct and ascending, so that the row at position i has an id of i at least, and of the last
        row's id less the rows behind it at most: of a dense table that says exactly where each id is.
        """
        if not len(ids) or not self.rows:
            return []
        numbers, everywhere = np.arange(self.parts, dtype=np.int64), list(range(self.parts))
        if not (self.parts - 1) * self.rows_per_part < self.rows <= self.parts * self.rows_per_part:
            return everywhere  # not parts of one size
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
        """Rows of `ids`, those that there are, in the table's order; for tables that are not dense."""
        return _together(list(self.batches_of(np.unique(np.asarray(ids, dtype=np.int64)), columns)))

    def good(self, columns: list[str] | None = None) -> pa.Table:
        """Rows without an error."""
        wanted = None if columns is None else [*columns, *([] if "error" in columns else ["error"])]
        rows = self.read(wanted)
        rows = rows.filter(pc.is_null(rows["error"]))
        return rows if columns is None else rows.select(columns)


def rows_among(rows: pa.Table, ids: npt.NDArray[np.int64]) -> pa.Table:
    """Those rows whose `image_id` is among `ids` (int64 [N], ascending), in their order.

    `pc.is_in` would hash all N ids anew for each part of a table: 2.6 seconds a part for ten million.
    """
    if not len(ids):
        return rows.slice(0, 0)
    own = rows["image_id"].to_numpy()
    return rows.filter(pa.array(ids[np.minimum(np.searchsorted(ids, own), len(ids) - 1)] == own))


def vectors(column: pa.ChunkedArray) -> npt.NDArray[np.float16]:
    """A fixed-size-binary fp16 column without nulls as an array [N, dim], a view of Arrow's memory where possible."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # an empty column combines to no chunk
        array = array.chunk(0) if array.num_chunks else pa.array([], type=column.type)
    width = array.type.byte_width
    if array.null_count:
        raise ValueError("the column holds failed rows: filter them out first")
    data = array.buffers()[1]
    if data is None:
        return np.zeros((0, width // 2), dtype="<f2")
    flat = np.frombuffer(data, dtype="<f2", offset=array.offset * width, count=len(array) * width // 2)
    return flat.reshape(len(array), width // 2)
