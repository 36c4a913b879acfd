"""What a row-parallel stage asks of the class that computes its rows."""

from __future__ import annotations

from typing import Protocol

import pyarrow as pa


class WorkerLost(RuntimeError):
    """The model behind a worker is dead and cannot be used again: the process must be replaced."""


REMARKS = "remarks"
"""In a part's summary and a table's `extra`: see remarks_of."""


def remarks_of(worker: object) -> tuple[str, ...]:
    """What whoever judges the results of a worker (or its model) must know, so far; "remarks" are optional there.

    Such as a field of requests that a server did not take. Remarks stand in the stage's log, manifest and report.
    """
    return tuple(getattr(worker, "remarks", ()))


class PartWorker(Protocol):
    """Loads its model once, in the constructor, and then computes one part of the rows after the other."""

    def process(self, rows: pa.Table) -> pa.Table:
        """One row of the stage's schema for each row of `rows`; what cannot be computed is a row with `error` set.

        Args:
            rows: columns `image_id` and `uri` of the samples table, and others that the stage asked for.

        Raises:
            WorkerLost: nothing more can be computed in this process; the rows are given to another one.
        """
        ...
