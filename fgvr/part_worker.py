"""What a row-parallel stage asks of the class that computes its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc


class WorkerLost(RuntimeError):
    """The model behind a worker is dead and cannot be used again: the process must be replaced."""


REMARKS = "remarks"
"""In a part's summary and a table's `extra`: see remarks_of."""


def remarks_of(worker: object) -> tuple[str, ...]:
    """What whoever judges the results of a worker (or its model) must know, so far; "remarks" are optional there.

    Such as a field of requests that a server did not take. Remarks stand in the stage's log, manifest and report.
    """
    return tuple(getattr(worker, "remarks", ()))


@dataclass(frozen=True)
class Engine:
    """A model that a process loads once and that workers of several stages ask, one after the other.

    A stage's worker is made with it as `backend`, beside its own arguments. An engine that keeps something of what it
    was asked has a method `forget`, which is called before the next stage's worker is made: a table must not depend on
    what the engine was asked before. One that hands on in batches what it keeps has a method `flush`, which is called
    behind each part: its process is ended without notice.

    Attributes:
        identity: of two with the same one either will do.
        load: gives the loaded model; must pickle.
        lent: whether one stage hands it on to the next: not where loading it is only to connect to a server.
    """

    identity: str
    load: Callable[[], Any]
    lent: bool = True


class PartWorker(Protocol):
    """Computes one part of the rows after the other; what it needs for that is loaded when it is made."""

    def process(self, rows: pa.Table) -> pa.Table:
        """One row of the stage's schema for each row of `rows`; what cannot be computed is a row with `error` set.

        Args:
            rows: columns `image_id` and `uri` of the samples table, and others that the stage asked for.

        Raises:
            WorkerLost: nothing more can be computed in this process; the rows are given to another one.
        """
        ...


# Tokens of a table: their sums, how many rows have none because the server did not state them, and cut answers.

UNCOUNTED = "uncounted_rows"
"""Beside sums of tokens: rows that were answered and have no count. The sums are too low then."""
CUT_COLUMN = "cut"
"""Of answers: whether the limit of tokens ended each."""
CUT_ANSWERS = "cut_answers"
"""Beside sums of tokens: answers that the limit of tokens ended."""


def token_totals(rows: pa.Table) -> dict[str, int]:
    """Sums of the columns `*_tokens`; under `UNCOUNTED` the good rows without a count where there are any.

    Where answers were cut off, their number is there as `CUT_ANSWERS`.
    """
    names = [name for name in rows.schema.names if name.endswith("_tokens")]
    totals = {name: int(pc.sum(rows[name]).as_py() or 0) for name in names}
    if CUT_COLUMN in rows.schema.names and (cut := pc.sum(pc.list_flatten(rows[CUT_COLUMN])).as_py()):
        totals[CUT_ANSWERS] = int(cut)
    stated = [name for name in names if name != "cached_tokens"]  # a server need not have a cache
    if not stated or "error" not in rows.schema.names:
        return totals
    good = rows.filter(pc.is_null(rows["error"]))
    uncounted = max(good[name].null_count for name in stated)
    return totals | ({UNCOUNTED: uncounted} if uncounted else {})
