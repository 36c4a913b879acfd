"""External sort, for more rows than fit in memory: sorted runs in temporary files, merged as a stream.

A listing of ten million photos comes in the order of a disk or of a file, but ids follow the sorted URIs. So rows are
sorted in runs of 64 MiB, and the runs are merged block by block: memory holds one run, and later one block per run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from fgvr.storage_errors import full_disk

RUN_BYTES = 64 * 2**20
"""Bytes that are sorted in memory, and that a `Spool` keeps before it writes to a file."""
ROOM = "Listings that are larger than memory wait there: set TMPDIR to a folder on a disk with room"
BLOCK_ROWS = 16_384
"""Rows of each run that are held in memory while runs are merged."""


class Spool:
    """Tables that are written once and read back any number of times: from memory while small, else from a file.

    The file is compressed, lies in `tempfile`'s folder (TMPDIR), and is removed with the object.
    """

    def __init__(self, schema: pa.Schema, *, memory_bytes: int = RUN_BYTES) -> None:
        """An empty spool for tables of `schema`; beyond `memory_bytes` they go to a file."""
        self.schema, self.rows = schema, 0
        self._free_bytes = memory_bytes
        self._tables: list[pa.Table] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._writer: pa.RecordBatchStreamWriter | None = None

    def append(self, table: pa.Table) -> None:
        """Add rows at the end; not allowed during or after reading. Raises StorageFull."""
        with full_disk(Path(tempfile.gettempdir()), ROOM):
            self._append(table)

    def _append(self, table: pa.Table) -> None:
        self.rows += table.num_rows
        if self._writer is not None:
            self._writer.write_table(table, max_chunksize=BLOCK_ROWS)
            return
        self._tables.append(table)
        self._free_bytes -= table.nbytes
        if self._free_bytes < 0:
            self._folder = tempfile.TemporaryDirectory(prefix="fgvr-listing-")
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writer = pa.ipc.new_stream(str(self._path), self.schema, options=options)
            for kept in self._tables:
                self._writer.write_table(kept, max_chunksize=BLOCK_ROWS)
            self._tables = []

    def __iter__(self) -> Iterator[pa.Table]:
        """Tables of at most BLOCK_ROWS rows, in order; none is empty."""
        if self._folder is None:
            for table in self._tables:
                for start in range(0, table.num_rows, BLOCK_ROWS):
                    yield table.slice(start, BLOCK_ROWS)
            return
        if self._writer is not None:
            with full_disk(Path(tempfile.gettempdir()), ROOM):
                self._writer.close()
        with pa.OSFile(str(self._path)) as file, pa.ipc.open_stream(file) as reader:
            for batch in reader:
                if batch.num_rows:
                    yield pa.Table.from_batches([batch])

    @property
    def _path(self) -> Path:
        assert self._folder is not None  # noqa: S101 - only asked for once there is one
        return Path(self._folder.name) / "rows.arrow"


class SortedRuns:
    """Takes rows in any order and returns them sorted by a column of texts or numbers; the sort is stable."""

    def __init__(self, schema: pa.Schema, column: str, *, run_bytes: int = RUN_BYTES) -> None:
        """For tables of `schema`, whose column `column` has no nulls."""
        self._schema, self._column, self._run_bytes = schema, column, run_bytes
        self._runs: list[Spool] = []
        self._waiting: list[pa.Table] = []
        self._waiting_bytes = 0

    def add(self, table: pa.Table) -> None:
        """Add rows."""
        self._waiting.append(table)
        self._waiting_bytes += table.nbytes
        if self._waiting_bytes > self._run_bytes:
            self._close_run(memory_bytes=0)

    def __iter__(self) -> Iterator[pa.Table]:
        """All rows, in sorted blocks; iterate only once, after the last `add`."""
        if self._waiting:
            self._close_run(memory_bytes=2 * self._run_bytes)  # the last run need not go to a file
        return merged(self._runs, self._column)

    def _close_run(self, memory_bytes: int) -> None:
        rows = pa.concat_tables(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        run = Spool(self._schema, memory_bytes=memory_bytes)
        run.append(rows.take(pc.sort_indices(rows[self._column])))
        self._runs.append(run)


def merged(runs: Sequence[Iterable[pa.Table]], column: str) -> Iterator[pa.Table]:
    """Merge sorted streams of tables into one; among equal texts, rows of the earliest stream come first.

    Each step takes from the heads of all streams the rows up to the smallest of the heads' last texts: no unread row
    can be smaller. Unread rows may be equal to it, though, so the order is only guaranteed for the first of equal
    texts; to order all of them, endlessly repeated texts would have to be held in memory.
    """
    streams = [iter(run) for run in runs]
    heads = {number: head for number, stream in enumerate(streams) if (head := next(stream, None)) is not None}
    while heads:
        bound = min(head[column][-1].as_py() for head in heads.values())
        taken = []
        for number, head in list(heads.items()):
            count = pc.sum(pc.less_equal(head[column], bound)).as_py()
            taken.append(head.slice(0, count))
            rest = head.slice(count) if count < head.num_rows else next(streams[number], None)
            if rest is None:
                del heads[number]
            else:
                heads[number] = rest
        block = pa.concat_tables(taken)
        yield block if len(runs) == 1 else block.take(pc.sort_indices(block[column]))
