"""Rows that an earlier table of the same stage has already: a new table takes them over and computes only the others.

A row of a row-parallel table depends on its photo, on what decides the stage, and on the stage's other inputs, not on
the photos beside it. So where only the choice of photos has changed (photos were added, a sample was made larger), all
else is paid for already. `rows.json` beside a table says what decides one of its rows, and on which listing of the
photos their ids rest.

A part of the new table whose rows are partly known is written at once, with failed rows (`not_yet`) in the place of the
others, which are then computed like rows that are tried again. So nothing is lost or done twice when a session is
killed in between.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.part_actor import summary_of
from cluster.settled import FILE as PRECISION
from cluster.stage_files import finished
from fgvr import storage, tables
from fgvr.arrays import Ids
from fgvr.schemas import Failure, Reason, key_of
from fgvr.tables import GROWN, Table

log = logging.getLogger(__name__)

FILE: Final = "rows.json"
READERS: Final = 8
NOT_YET: Final = Failure(Reason.NOT_YET, "not computed yet")


@dataclass(frozen=True)
class Known:
    """Rows of an earlier table that hold in a new one.

    Attributes:
        table: the earlier table.
        below: only rows of photos with smaller ids hold.
    """

    table: Table
    below: int

    def rows(self, ids: Ids, columns: list[str] | None = None) -> pa.Table:
        """Those good rows of `ids` (int64, ascending) that the earlier table has."""
        key = key_of(tables.read_part(self.table.uri, 0, columns).schema.names)
        found = self.table.find(ids[ids < self.below], columns)
        return found.filter(pc.is_null(found["error"])).sort_by(key)

    def ids(self) -> Ids:
        """Ascending ids of all its good rows that hold."""
        rows = self.table.read(["image_id", "error"])
        ids = rows.filter(pc.is_null(rows["error"]))["image_id"].to_numpy()
        found: Ids = np.sort(ids[ids < self.below])
        return found


def state_rows(folder: str, key: str, samples: Table) -> None:
    """Write beside a table what decides its rows."""
    storage.write_bytes(storage.join(folder, FILE), json.dumps({"rows": key, "samples": samples.fingerprint}).encode())


def known_rows(run_folder: str, name: str, own: str, key: str, samples: Table) -> Known | None:
    """The largest finished table of the stage `name` whose rows hold in a new one; None where there is none.

    Args:
        run_folder: the run's folder.
        name: the stage's table.
        own: fingerprint of the new table.
        key: what decides a row of it.
        samples: the listing on which its ids rest.
    """
    place = storage.join(run_folder, "tables", name)
    below = {samples.fingerprint: samples.rows} | {each["fingerprint"]: each["rows"] for each in _grown(samples)}
    best: Known | None = None
    try:
        folders = storage.list_entries(place)[1]
    except FileNotFoundError:
        return None
    for other in sorted(folders):
        if other == own:
            continue
        uri = storage.join(place, other)
        try:
            facts: Mapping[str, str] = json.loads(storage.read_bytes(storage.join(uri, FILE)))
        except (FileNotFoundError, ValueError):
            continue  # of an earlier version, or being written
        if facts.get("rows") != key or facts.get("samples") not in below:
            continue
        table = finished(uri)
        if table is not None and table.rows and (best is None or table.rows > best.table.rows):
            best = Known(table, below[facts["samples"]])
    return best


def take_over(known: Known, folder: str, ids: Ids, rows_per_part: int, schema: pa.Schema) -> int:
    """Write the parts of a new table that an earlier one has, wholly or in part; returns how many rows it has.

    Args:
        known: the earlier table.
        folder: of the new table; parts that are there stay.
        ids: int64 [n], ascending ids of all its rows.
        rows_per_part: of its parts.
        schema: of its rows.
    """
    if storage.exists(known.table.path(PRECISION)) and not storage.exists(storage.join(folder, PRECISION)):
        storage.write_bytes(storage.join(folder, PRECISION), storage.read_bytes(known.table.path(PRECISION)))
    there = tables.finished_parts(folder)
    starts = [(number, start) for number, start in enumerate(range(0, len(ids), rows_per_part)) if number not in there]

    def write(place: tuple[int, int]) -> int:
        number, start = place
        part = ids[start : start + rows_per_part]
        rows = tables.conform(known.rows(part), schema)
        if not rows.num_rows:
            return 0
        key = key_of(schema.names)
        missing = np.setdiff1d(part, rows[key].to_numpy(), assume_unique=True)
        waiting = pa.Table.from_pylist([{key: each, "error": NOT_YET.as_row()} for each in missing.tolist()], schema)
        whole = pa.concat_tables([rows, waiting]).sort_by(key)
        facts = {tables.SUMMARY: json.dumps(summary_of(whole, {})).encode()}
        tables.write_part(folder, number, whole.replace_schema_metadata(facts))
        return int(rows.num_rows)

    with ThreadPoolExecutor(READERS) as pool:
        return sum(pool.map(write, starts))


def _grown(samples: Table) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = samples.extra.get(GROWN, ())
    return found
