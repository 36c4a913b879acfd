"""The interface that a row-parallel stage expects of the class that computes its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc


class WorkerLost(RuntimeError):
    """The model behind a worker is dead and cannot recover: the process must be replaced."""


REMARKS = "remarks"
"""In a part's summary and a table's `extra`: see remarks_of."""


def remarks_of(worker: object) -> tuple[str, ...]:
    """Notes on a worker (or its model) that a reader of its results must know; the attribute `remarks` is optional.

    For example, a request field that a server rejected. Remarks appear in the stage's log, manifest and report.
    """
    return tuple(getattr(worker, "remarks", ()))


@dataclass(frozen=True)
class Engine:
    """A model that a process loads once and that workers of several stages use, one stage after the other.

    A stage's worker is made with it as `backend`, beside its own arguments. An engine that keeps something of what it
    was asked has a method `forget`, which is called before the next stage's worker is made: a table must not depend on
    what the engine was asked before. One that hands on in batches what it keeps has a method `flush`, which is called
    behind each part: its process is ended without notice.

    Attributes:
        identity: two engines with the same identity are interchangeable.
        load: returns the loaded model; must be picklable.
        lent: whether one stage hands it on to the next; False if loading it merely means connecting to a server.
    """

    identity: str
    load: Callable[[], Any]
    lent: bool = True


class PartWorker(Protocol):
    """Computes the rows of one part after another; it loads what it needs for that in its constructor."""

    def process(self, rows: pa.Table) -> pa.Table:
        """One row of the stage's schema per row of `rows`; a row that cannot be computed has `error` set.

        Args:
            rows: the samples table's columns `image_id` and `uri`, and others that the stage requested.

        Raises:
            WorkerLost: this process cannot compute anything any more; the rows are given to another one.
        """
        ...


# Token counts of a table: sums, how many rows lack a count because the server did not state it, and cut-off answers.

UNCOUNTED = "uncounted_rows"
"""Beside the token sums: answered rows without a token count. If there are any, the sums are too low."""
CUT_COLUMN = "cut"
"""Column of answer rows: whether each answer was cut off by the token limit."""
CUT_ANSWERS = "cut_answers"
"""Beside the token sums: the number of answers cut off by the token limit."""


def token_totals(rows: pa.Table) -> dict[str, int]:
    """Sums of the columns `*_tokens`; under `UNCOUNTED` the number of good rows without a count, if there are any.

    If answers were cut off, their number stands under `CUT_ANSWERS`.
    """
    names = [name for name in rows.schema.names if name.endswith("_tokens")]
    totals = {name: int(pc.sum(rows[name]).as_py() or 0) for name in names}
    if CUT_COLUMN in rows.schema.names and (cut := pc.sum(pc.list_flatten(rows[CUT_COLUMN])).as_py()):
        totals[CUT_ANSWERS] = int(cut)
    stated = [name for name in names if name != "cached_tokens"]  # not every server has a prefix cache
    if not stated or "error" not in rows.schema.names:
        return totals
    good = rows.filter(pc.is_null(rows["error"]))
    uncounted = max(good[name].null_count for name in stated)
    return totals | ({UNCOUNTED: uncounted} if uncounted else {})
