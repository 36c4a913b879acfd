"""A finished stage's output: Parquet parts in a folder, with a manifest that is written last.

Part p holds the rows of positions [p·R, (p+1)·R) of the stage's ids, so the number of a part says what it must
hold: resuming is doing the parts that are not there, and a part written twice is the same part.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fgvr import storage
from fgvr.failures import Example

MANIFEST = "manifest.json"
SUMMARY = b"fgvr.summary"
"""Key of a part's summary in its footer."""


def part_name(number: int) -> str:
    """File name of a part; sorts in the order of the numbers up to 100 million parts."""
    return f"part-{number:08d}.parquet"


def write_part(folder: str, number: int, rows: pa.Table) -> int:
    """Write one part atomically; returns its size in bytes."""
    sink = io.BytesIO()
    # fp16 vectors do not compress: plain pages keep them readable without a copy.
    vectors = [name for name in rows.schema.names if pa.types.is_fixed_size_binary(rows.schema.field(name).type)]
    pq.write_table(rows, sink, compression={n: "NONE" if n in vectors else "ZSTD" for n in rows.schema.names})
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
        """Rows of *dense* ids (row i of the table has image_id i), in the order of `ids`; reads only their parts.

        Raises IndexError for ids outside the table.
        """
        ids = np.asarray(ids, dtype=np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= self.rows):
            raise IndexError(f"table {self.name} has rows 0..{self.rows - 1}; asked for {ids.min()}..{ids.max()}")
        numbers = np.unique(ids // self.rows_per_part)
        if not numbers.size:
            return read_part(self.uri, 0, columns).slice(0, 0)
        rows = _together([read_part(self.uri, int(number), columns) for number in numbers])
        starts = np.searchsorted(numbers, ids // self.rows_per_part) * self.rows_per_part
        # Every part but the last is full, so a part's rows start at a multiple of R among those read.
        return rows.take(pa.array(starts + ids % self.rows_per_part))

    def find(self, ids: npt.NDArray[np.int64], columns: list[str] | None = None) -> pa.Table:
        """Rows of `ids`, those that there are, in the table's order; for tables that are not dense."""
        wanted = np.unique(np.asarray(ids, dtype=np.int64))
        columns = columns if columns is None or "image_id" in columns else ["image_id", *columns]
        return _together([rows_among(part, wanted) for part in self.batches(columns)])

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
