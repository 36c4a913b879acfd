"""Quarantine of rows that kill their worker: deaths per part are recorded, and suspect rows are isolated.

A pool gives the part of a dead worker to the next one, however often. Usually that is right: a node was preempted, an
engine broke. But an image that crashes a decoder or exhausts the memory would kill one worker after another. So a part
whose workers died `WHOLE` times is computed row by row, and each row is recorded before it is tried. The next worker
that finds a row started and not finished makes it a failed row. After `MOST` deaths in a row without a further row
computed, the part is given up: then it is hardly the rows; and after `MOST_ROWS` rows that killed their workers, since
each of them costs a start.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pyarrow as pa

from fgvr import storage
from fgvr.errors import UserError
from fgvr.schemas import Failure, Reason, key_of

WHOLE, MOST, MOST_ROWS = 2, 8, 32


class PartGivenUp(UserError):
    """A part killed so many workers that its rows can hardly be the cause, or too many of its rows did."""


class Quarantine:
    """The deaths on a part and the rows to blame, in a small file beside the parts that is removed when the part is
    done.

    Args:
        folder: the stage's folder.
        number: number of the part.
    """

    def __init__(self, folder: str, number: int) -> None:
        self.number = number
        self.uri = storage.join(folder, "attempts", f"{number:08d}.json")
        self.deaths, self.barren, self.furthest, self.culprits = 0, 0, 0, list[int]()
        self.done = 0  # rows computed one by one by this worker
        if storage.exists(self.uri):
            facts = json.loads(storage.read_bytes(self.uri))
            self.deaths = facts["begun"]
            self.culprits = facts["culprits"] + ([] if facts["current"] is None else [facts["current"]])
            further = facts["done"] > facts["furthest"]
            self.barren = 0 if further else facts["barren"] + 1
            self.furthest = max(facts["done"], facts["furthest"])

    def _write(self, current: int | None) -> None:
        facts = {
            "begun": self.deaths + 1,
            "barren": self.barren,
            "furthest": self.furthest,
            "done": self.done,
            "culprits": self.culprits,
            "current": current,
        }
        storage.write_bytes(self.uri, json.dumps(facts).encode())

    def process(self, rows: pa.Table, work: Callable[[pa.Table], pa.Table], schema: pa.Schema) -> pa.Table:
        """`work(rows)`, or the same row by row, where rows that killed their worker become failed rows.

        Raises:
            PartGivenUp: too many workers died on this part.
        """
        key = key_of(rows.schema.names) or ""
        ids, kind = rows[key].to_pylist(), key.replace("_", " ")
        if len(self.culprits) >= MOST_ROWS:
            raise PartGivenUp(
                f"part {self.number} ({kind}s {ids[0]}..{ids[-1]}): {len(self.culprits)} of its {len(ids)} rows each "
                f"killed the worker that computed them, the first ones {self.culprits[:5]} ({kind}s); look at these in "
                "the stage's input, and leave out or replace what is not as it should be. What is done is kept."
            )
        if self.barren >= MOST:
            raise PartGivenUp(
                f"part {self.number} ({kind}s {ids[0]}..{ids[-1]}) has killed {self.deaths} workers; their last "
                "messages are in Ray's log files. Is there too little memory (the stage's workers.num_cpus and "
                ".memory_gb say how many share a machine), or does the engine not run here? What is done is kept."
            )
        self._write(None)
        if self.deaths < WHOLE:
            done = work(rows)
        else:
            done = pa.concat_tables([self._row(rows.slice(n, 1), work, schema) for n in range(len(ids))])
        return done

    def _row(self, row: pa.Table, work: Callable[[pa.Table], pa.Table], schema: pa.Schema) -> pa.Table:
        row_id = row[key_of(row.schema.names)][0].as_py()
        if row_id in self.culprits:
            return failed_row(row_id, Failure(Reason.ENGINE_ERROR, "its worker died while computing it"), schema)
        self._write(row_id)
        computed = work(row).cast(schema)
        self.done += 1
        return computed

    def finished(self) -> None:
        """The part is written: delete the record of its deaths."""
        storage.remove(self.uri)


def lift_quarantine(folder: str) -> None:
    """Delete all such records at the start of a run: the causes of earlier deaths may be fixed."""
    storage.remove(storage.join(folder, "attempts"))


def failed_row(row_id: int, failure: Failure, schema: pa.Schema) -> pa.Table:
    """One row of `schema` with its id and its error; all other columns are null."""
    row = dict.fromkeys(schema.names) | {key_of(schema.names): row_id, "error": failure.as_row()}
    return pa.Table.from_pylist([row], schema=schema)
