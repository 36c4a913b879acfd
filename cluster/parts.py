"""Row-parallel stages: a pool of Ray actors computes parts of the rows, and writes one file per part.

A part is a fixed range of the stage's ids, of a size that is recorded when the table is started. It is exactly one
file, which the actor that computed it writes atomically. So resuming means computing the parts whose file is missing,
and a part that another actor computes again after a death overwrites the same file with the same rows; no row can be
lost or doubled. Only part numbers and one summary per part travel; images are read where they are used. The stage's ids
lie in one file, from which an actor reads its range: in the object store and the driver they would grow with the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster import budget, lease, stage_progress
from cluster.capacity import check_capacity, places, wanted
from cluster.lending import borrowed
from cluster.part_actor import COMPUTED, PartJob, StageStopped
from cluster.pool import TRIES, Part
from cluster.progress import Progress
from cluster.quarantine import MOST, MOST_ROWS, lift_quarantine
from cluster.stage_files import IDS, Plan, rows_per_part
from cluster.stage_progress import StageProgress
from fgvr import storage, tables
from fgvr.errors import UserError
from fgvr.failures import Failures, allowed_failures, table_place
from fgvr.part_worker import REMARKS
from fgvr.schemas import Reason

__all__ = ["PartJob", "PartSummary", "StageStopped", "TooManyFailures", "as_begun", "run_parts"]


class TooManyFailures(UserError):
    """More rows failed than `run.max_error_share` allows."""


@dataclass
class PartSummary:
    """Totals over all parts, including those of earlier sessions."""

    rows: int = 0
    failed: int = 0
    found: Failures = field(default_factory=Failures)
    totals: Counter[str] = field(default_factory=Counter)  # see fgvr.part_worker
    parts: int = 0
    remarks: set[str] = field(default_factory=set)  # from the workers: see fgvr.part_worker.remarks_of

    @property
    def failures(self) -> Counter[str]:
        """Failed rows by reason."""
        return self.found.counts


def as_begun(job: PartJob) -> PartJob:
    """The job with the part size recorded for its table; records the size for a new table."""
    size = rows_per_part(job.folder, job.name, job.workers.rows_per_part)
    return replace(job, workers=job.workers.model_copy(update={"rows_per_part": size}))


def run_parts(
    job: PartJob,
    ids: npt.NDArray[np.int64],
    *,
    max_error_share: float = 1.0,
    retry_failed: bool = False,
    field: str = "workers",
) -> PartSummary:
    """Compute all parts of `ids` whose files are missing in the job's folder.

    Args:
        job: what to compute, and the folder.
        ids: int64 [n], ascending ids of the job's rows: image ids of the samples table.
        max_error_share: allowed share of failed rows; see `allowed_failures`.
        retry_failed: whether to retry failed rows of finished parts, too.
        field: the config field of the job's workers, for messages.

    Raises:
        TooManyFailures: the share was exceeded; gives an example of each reason.
        SessionError: the workers need more than the cluster has.
        BudgetReached: the next part would cost more than is left of `run.budget`.
        StageStopped: the user has to fix an error: a part that kills every worker, workers that do not start.
        Stalled: no worker sent a heartbeat for too long.
    """
    job = as_begun(job)
    size = job.workers.rows_per_part
    summary = PartSummary(parts=-(-len(ids) // size))
    finished, again = tables.finished_parts(job.folder), dict[int, int]()
    done = [number for number in range(summary.parts) if number in finished]
    pending = [number for number in range(summary.parts) if number not in finished]
    with ThreadPoolExecutor(16) as pool:
        for number, facts in zip(done, pool.map(lambda n: tables.part_summary(job.folder, n), done), strict=True):
            left = sum(facts["failures"].values()) if retry_failed else facts["failures"].get(Reason.NOT_YET, 0)
            if left:
                pending.append(number)
                again[number] = left
            else:
                _add(summary, facts)
    pending.sort()
    limit = allowed_failures(max_error_share, len(ids))
    progress = Progress(job.name, total=len(ids), done=summary.rows)
    lease.check(job.folder)
    if pending:
        check_capacity(field, job.workers)
        Plan(rows=len(ids), rows_per_part=size).write(job.folder)
        with storage.new_file(storage.join(job.folder, IDS)) as file:
            file.write(np.ascontiguousarray(ids, dtype="<i8").data)  # without a copy: there may be a hundred million
    lift_quarantine(job.folder)
    told = stage_progress.current() or StageProgress(job.name, lambda: 0.0)
    told.begin(len(ids), rows=summary.rows, failures=summary.failures, tokens=summary.totals, parts=len(pending))
    try:
        with closing(_stream(job, pending, again, len(ids))) as summaries:
            for facts in summaries:
                _add(summary, facts)
                progress.update(facts["rows"], summary.failed)
                told.part(facts["rows"], facts["failures"], facts["totals"])
                new = facts.get(COMPUTED, facts)
                told.computed(new["rows"], new["failures"], new["totals"])
                _check(summary, limit, job)
    finally:
        progress.close()  # or else the error would be printed after the progress line
    _check(summary, limit, job)
    lease.check(job.folder)  # workers of the new owner read it
    storage.remove(storage.join(job.folder, IDS))
    return summary


def _stream(job: PartJob, pending: list[int], again: Mapping[int, int], rows: int) -> Generator[dict[str, Any]]:
    """Yield the summaries of the pending parts of a table of so many rows as a pool of Ray actors finishes them.

    `again`: of parts whose failed rows are tried again, how many these are.
    """
    if not pending:
        return
    import ray
    from ray import cloudpickle

    workers = job.workers

    def waits_for(left: int) -> str:
        return f"{job.name}: waiting for {left} parts, computed by {wanted(workers)}"

    gate = budget.gate(rows, workers.rows_per_part, again)
    parts = [Part(number, again=number in again) for number in pending]
    gate.check(parts[0])  # before a model is loaded
    room = places(workers)
    most = min(workers.max_workers, len(pending) if room is None else max(1, min(len(pending), room)))
    with borrowed(job.engine, workers, most, keep=job.keep_engine) as pool:
        try:
            yield from pool.run(
                job.name,
                ray.put(cloudpickle.dumps(job)),
                parts,
                at_once=min(workers.min_workers, most),
                most=most,
                # `Quarantine` gives a part up earlier, unless workers die before starting it.
                lives=MOST + MOST_ROWS + TRIES,
                waits_for=waits_for,
                gate=gate,
            )
        finally:
            gate.lost(pool.heartbeats)  # what was paid for in parts that this session does not finish


def _add(summary: PartSummary, facts: dict[str, Any]) -> None:
    summary.rows += facts["rows"]
    summary.failed += sum(facts["failures"].values())
    summary.found.add(Failures.from_json(facts["failures"], facts.get("examples")))
    summary.totals.update(facts["totals"])
    summary.remarks.update(facts.get(REMARKS, ()))


def _check(summary: PartSummary, limit: int, job: PartJob) -> None:
    if summary.failed > limit:
        raise TooManyFailures(
            f"{job.name}: {summary.failed} of {summary.rows} rows failed so far, more than run.max_error_share allows "
            f"({limit} rows): {summary.found.in_words()}. Rows done are kept; mend the cause and run again with "
            f"--run.retry_failed true, or raise run.max_error_share; {table_place(job.folder)}"
        )
