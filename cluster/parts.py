"""Row-parallel stages: parts of the rows go to a pool of Ray Data actors, each part comes back as one file.

A part is a fixed range of the stage's ids, of a size that is recorded when the table is begun, and exactly one file,
which the actor that computed it writes atomically. So resuming means doing the parts whose file is missing, a task
that Ray retries after a death overwrites the same file with the same rows, and neither can lose or double a row. Only
part numbers and a summary row a part travel through the object store; images are read where they are used. The stage's
ids lie in one file, of which an actor reads its part's: in the object store and the driver they would grow with the
table.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cluster import lease, session, stage_progress
from cluster.attempts import Attempts, PartGivenUp, forget_attempts
from cluster.capacity import check_capacity, wanted
from cluster.progress import Progress
from cluster.signs import Signs
from cluster.stage_files import IDS, Plan, rows_per_part
from cluster.stage_progress import StageProgress
from cluster.starts import Starts
from cluster.waiting import patiently
from cluster.watchdog import Watchdog, is_out_of_memory
from fgvr import storage, tables
from fgvr.config.base import Workers
from fgvr.config.run import Limits
from fgvr.errors import UserError
from fgvr.failure_limit import allowed_failures
from fgvr.failures import Failures, table_place
from fgvr.part_worker import REMARKS, PartWorker, WorkerLost, remarks_of
from fgvr.tables import Table
from fgvr.token_counts import token_totals


class TooManyFailures(UserError):
    """More rows failed than `run.max_error_share` allows."""


STOPPED = "stopped"
"""In the place of a part's summary: why the stage cannot go on."""
COMPUTED = "computed"
"""Beside a part's summary: that of the rows that were computed now, where others of the part were there already."""


@dataclass
class PartSummary:
    """Totals over all parts, those of earlier sessions included."""

    rows: int = 0
    failed: int = 0
    found: Failures = field(default_factory=Failures)
    totals: Counter[str] = field(default_factory=Counter)  # see fgvr.token_counts
    parts: int = 0
    remarks: set[str] = field(default_factory=set)  # of the workers: see fgvr.part_worker.remarks_of

    @property
    def failures(self) -> Counter[str]:
        """Failed rows by reason."""
        return self.found.counts


@dataclass(frozen=True)
class PartJob:
    """What the workers of a stage need to know; travels to each of them.

    Attributes:
        name: the stage's name, for the console.
        folder: the stage's folder.
        worker: the PartWorker class, created once in each actor.
        arguments: its keyword arguments; must pickle.
        schema: Arrow schema of the stage's rows.
        samples: the samples table.
        workers: size of the pool, what an actor reserves, and rows a part where the table is not yet begun.
        columns: sample columns that the worker needs.
    """

    name: str
    folder: str
    worker: Callable[..., PartWorker]
    arguments: Mapping[str, Any]
    schema: pa.Schema
    samples: Table
    workers: Workers
    columns: tuple[str, ...] = ("image_id", "uri")


class StageStopped(UserError):
    """A worker said why the stage cannot go on."""


class _PartActor:
    """Wraps a PartWorker for Ray Data: one input row is one part, one output row its summary."""

    def __init__(self, job: PartJob, signs: Signs, limits: Limits, at_once: int = 1) -> None:
        limit_threads(max(1, int(job.workers.num_cpus)))
        self.job, self.signs, self.limits = job, signs, limits
        self.watchdog = Watchdog(signs)
        starts = Starts(signs, job.name, limits, at_once)
        self.started = starts.start(lambda: job.worker(**job.arguments), self.watchdog)

    @property
    def worker(self) -> PartWorker:
        """Raises here why there is none, which ends the stage: in the constructor it would be tried again."""
        if isinstance(self.started, UserError):
            raise self.started
        return self.started

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        parts = zip(batch["part"], batch["again"], strict=True)
        try:
            summaries = [self._watched(int(number), again=bool(again)) for number, again in parts]
        except UserError as error:  # as a value: Ray raises an error of its own, and its cause does not travel
            summaries = [{STOPPED: str(error)}] * len(batch["part"])
        return {"summary": [json.dumps(summary) for summary in summaries]}

    def _watched(self, number: int, *, again: bool) -> dict[str, Any]:
        """The part's summary; where it cannot be had here, the process ends and Ray gives the part to another one."""
        what = f"{self.job.name}, part {number}"
        try:
            with self.watchdog.over(what, self.limits.silent_minutes, "cluster.limits.silent_minutes"):
                return self._part(number, again=again)
        except PartGivenUp as error:
            words = self.signs.all_words()
            raise PartGivenUp(f"{error} The last of them said: {words[-1]}" if words else str(error)) from error
        except WorkerLost as error:
            self.watchdog.end(f"{what}: {error}")
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self.watchdog.end(f"{what}: out of memory ({type(error).__name__}: {error})")

    def _part(self, number: int, *, again: bool) -> dict[str, Any]:
        worker = self.worker
        wanted = ids = ids_of_part(self.job, number)
        before = tables.read_part(self.job.folder, number) if again else None
        if before is not None:  # only its failed rows are computed again
            wanted = before.filter(pc.is_valid(before["error"]))["image_id"].to_numpy()
        attempts = Attempts(self.job.folder, number)
        asked = self.job.samples.take(wanted, list(self.job.columns)) if len(wanted) else None
        rows = None if asked is None else attempts.process(asked, worker.process, self.job.schema)
        done = _merged(before, rows, ids, self.job.schema)
        summary = _summary(done, _uris(asked))
        earlier = [] if before is None else tables.part_summary(self.job.folder, number).get(REMARKS, [])
        if remarks := sorted({*earlier, *remarks_of(worker)}):
            summary[REMARKS] = remarks
        # In the file's footer the summary is read back without the rows when a run is resumed.
        facts = {**(done.schema.metadata or {}), tables.SUMMARY: json.dumps(summary).encode()}
        tables.write_part(self.job.folder, number, done.replace_schema_metadata(facts))
        attempts.finished()
        if before is None or rows is None:
            return summary
        return {**summary, COMPUTED: _summary(rows.cast(self.job.schema), _uris(asked))}


def as_begun(job: PartJob) -> PartJob:
    """The job with parts of the size with which its table was begun; begins it where nobody has."""
    size = rows_per_part(job.folder, job.name, job.workers.rows_per_part)
    return replace(job, workers=job.workers.model_copy(update={"rows_per_part": size}))


def ids_of_part(job: PartJob, number: int) -> npt.NDArray[np.int64]:
    """The image ids of a part, from the stage's file of ids; raises StageStopped where it is not seen."""
    width = 8 * job.workers.rows_per_part
    try:
        data = storage.read_bytes(storage.join(job.folder, IDS), number * width, (number + 1) * width)
    except FileNotFoundError:
        raise StageStopped(
            f"{job.name}: {job.folder} is not there on {socket.gethostname()}, where a worker runs. All nodes must"
            " share the run's folder (run.folder): a disk mounted at the same path everywhere, or an object store"
        ) from None
    return np.frombuffer(data, dtype="<i8").astype(np.int64)


def _merged(before: pa.Table | None, rows: pa.Table | None, ids: Any, schema: pa.Schema) -> pa.Table:
    """The part's rows in the order of `ids`; checks that each id is there exactly once."""
    if before is not None:
        kept = tables.conform(before.filter(pc.is_null(before["error"])), schema)
        rows = kept if rows is None else pa.concat_tables([kept, rows.cast(schema)])
    if rows is None:
        raise ValueError("a part without rows")
    rows = rows.cast(schema).sort_by("image_id")
    if not np.array_equal(rows["image_id"].to_numpy(), np.sort(np.asarray(ids))):
        raise ValueError("the worker did not return exactly one row for each image_id it was given")
    return rows


def _uris(asked: pa.Table | None) -> dict[int, str]:
    """Of the images that were computed; a part's failed rows are always among them."""
    if asked is None or "uri" not in asked.schema.names:
        return {}
    return dict(zip(asked["image_id"].to_pylist(), asked["uri"].to_pylist(), strict=True))


def _summary(rows: pa.Table, uris: Mapping[int, str]) -> dict[str, Any]:
    failures = Failures.in_rows(rows, uris)
    counts, examples = dict(failures.counts), failures.examples_json()
    return {"rows": rows.num_rows, "failures": counts, "examples": examples, "totals": token_totals(rows)}


def limit_threads(threads: int) -> None:
    """Keep a worker to the cores that it reserved; libraries read these before their first use."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    # Importing it here would cost every worker seconds and a gigabyte, also those that never use it.
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def run_parts(
    job: PartJob,
    ids: npt.NDArray[np.int64],
    *,
    max_error_share: float = 1.0,
    retry_failed: bool = False,
    field: str = "workers",
) -> PartSummary:
    """Compute all parts of `ids` that are missing in the job's folder.

    Args:
        job: what to compute, and where.
        ids: int64 [n], ascending image ids of the samples table.
        max_error_share: of failed rows; see `allowed_failures`.
        retry_failed: compute failed rows of finished parts again, too.
        field: where the config has the job's workers, for messages.

    Raises:
        TooManyFailures: the share was exceeded; gives an example of each reason.
        SessionError: the workers ask for more than there is.
        StageStopped: a worker met what a person has to mend: a part that ends every worker, workers that do not start.
        Stalled: no worker gave a sign of life for too long.
    """
    job = as_begun(job)
    size = job.workers.rows_per_part
    summary = PartSummary(parts=-(-len(ids) // size))
    finished = tables.finished_parts(job.folder)
    done = [number for number in range(summary.parts) if number in finished]
    pending = [number for number in range(summary.parts) if number not in finished]
    with ThreadPoolExecutor(16) as pool:
        for number, facts in zip(done, pool.map(lambda n: tables.part_summary(job.folder, n), done), strict=True):
            if retry_failed and facts["failures"]:
                pending.append(number)
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
    forget_attempts(job.folder)
    told = stage_progress.current() or StageProgress(job.name, lambda: 0.0)
    told.begin(len(ids), rows=summary.rows, failures=summary.failures, tokens=summary.totals, parts=len(pending))
    try:
        for facts in _stream(job, pending, finished):
            _add(summary, facts)
            progress.update(facts["rows"], summary.failed)
            told.part(facts["rows"], facts["failures"], facts["totals"])
            new = facts.get(COMPUTED, facts)
            told.computed(new["rows"], new["failures"], new["totals"])
            _check(summary, limit, job)
    finally:
        progress.close()  # else what stopped it is written behind the line on a terminal
    _check(summary, limit, job)
    lease.check(job.folder)  # workers of another owner read it
    storage.remove(storage.join(job.folder, IDS))
    return summary


def _stream(job: PartJob, pending: list[int], finished: set[int]) -> Iterator[dict[str, Any]]:
    """Summaries of the pending parts as Ray Data's actor pool finishes them."""
    if not pending:
        return
    import ray.data

    workers, limits, signs = job.workers, session.limits(), Signs()
    # Those that die before they are up are replaced; `Starts` says when that has no sense any more. Ray's own limit is
    # higher: it counts those that began together, too.
    deaths = Starts.most(workers.max_workers) + workers.max_workers
    ray.data.DataContext.get_current().max_consecutive_actor_init_deaths = deaths
    first = min(workers.min_workers, len(pending))
    specs = pa.table(
        {
            "part": pa.array(pending),
            "again": pa.array([number in finished for number in pending]),
        }
    )
    # One block a part: Ray schedules, retries and balances whole parts.
    blocks = [specs.slice(row, 1) for row in range(len(pending))]
    dataset = ray.data.from_arrow(blocks).map_batches(
        _PartActor,
        fn_constructor_args=(job, signs, limits, first),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(
            min_size=first,
            max_size=max(1, min(workers.max_workers, len(pending))),
            max_tasks_in_flight_per_actor=2,
        ),
        num_cpus=workers.num_cpus,
        num_gpus=workers.num_gpus or None,
        accelerator_type=workers.accelerator_type,
        memory=None if workers.memory_gb is None else int(workers.memory_gb * 2**30),
    )
    left = len(pending)

    def waits_for() -> str:
        return f"{job.name}: waiting for {left} parts, computed by {wanted(workers)}"

    with signs.kept():
        for row in patiently(dataset.iter_rows, signs, minutes=limits.place_minutes, waits_for=waits_for):
            left -= 1
            facts = json.loads(row["summary"])
            if STOPPED in facts:
                raise StageStopped(facts[STOPPED])
            yield facts


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
