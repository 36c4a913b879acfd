"""The code of a worker process: it loads a model once, then computes one part of a table after the other.

Nothing here imports what only the driver uses, since every worker would pay for it with seconds at its start.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cluster.heartbeat import Heartbeats
from cluster.quarantine import PartGivenUp, Quarantine
from cluster.stage_files import IDS
from cluster.watchdog import Watchdog, is_out_of_memory
from fgvr import spending, storage, tables
from fgvr.config.base import Workers
from fgvr.config.run import Limits
from fgvr.errors import UserError
from fgvr.failures import Failures
from fgvr.part_worker import REMARKS, Engine, PartWorker, WorkerLost, remarks_of, token_totals
from fgvr.schemas import key_of
from fgvr.spending import SPENT
from fgvr.store_waits import TooSlow
from fgvr.tables import Rows

STOPPED = "stopped"
"""Key of an answer without a summary: why the stage cannot go on."""
SECONDS = "seconds"
"""Key beside a part's summary: wall seconds of its rows, without loading the model or writing."""
COMPUTED = "computed"
"""Key beside a part's summary: the summary of newly computed rows, where the part had others already."""
SMOKE_ROWS = 8
"""Most rows of one smoke test: the first ones may be files that no model ever sees."""


class StageStopped(UserError):
    """A worker reported why the stage cannot go on."""


@dataclass(frozen=True)
class PartJob:
    """What the workers of a stage need to know; sent to each of them.

    Attributes:
        name: the stage's name, for the console.
        folder: the stage's folder.
        worker: the PartWorker class, instantiated once per actor.
        arguments: its keyword arguments; must pickle.
        schema: Arrow schema of the stage's rows.
        samples: what the ids number: the samples table, or other rows.
        workers: size of the pool, resources per actor, and rows per part for a table that has no parts yet.
        columns: their columns that the worker needs.
        engine: the model that the worker asks; None: the worker loads a model of its own.
        keep_engine: whether a later stage asks it, so that it is not released at the end of this one.
    """

    name: str
    folder: str
    worker: Callable[..., PartWorker]
    arguments: Mapping[str, Any]
    schema: pa.Schema
    samples: Rows
    workers: Workers
    columns: tuple[str, ...] = ("image_id", "uri")
    engine: Engine | None = None
    keep_engine: bool = True

    def worker_with(self, model: Any) -> PartWorker:
        """See `Job`."""
        return self.worker(**self.arguments, **({} if self.engine is None else {"backend": model}))

    def compute(self, worker: PartWorker, number: int, *, again: bool) -> dict[str, Any]:
        """See `Job`."""
        return compute_part(self, worker, number, again=again)

    def smoke_test(self, worker: PartWorker, number: int, first: int) -> None:
        """See `Job`."""
        for row_id in ids_of_part(self, number)[first : first + SMOKE_ROWS]:
            rows = worker.process(self.samples.take(np.array([row_id]), list(self.columns)))
            if not rows["error"][0].is_valid:
                return

    def silence(self, limits: Limits) -> tuple[float, str]:
        """See `Job`."""
        return limits.silent_minutes, "cluster.limits.silent_minutes"


class Job(Protocol):
    """The work of a pool's actors: parts of a table, or a single call (`cluster.once`)."""

    @property
    def name(self) -> str:
        """Name for the console and for last words."""
        ...

    @property
    def engine(self) -> Engine | None:
        """The model that the job's worker asks."""
        ...

    def worker_with(self, model: Any) -> Any:
        """The object that computes the parts, given the loaded engine if the job has one."""
        ...

    def compute(self, worker: Any, number: int, *, again: bool) -> dict[str, Any]:
        """Compute a part and return its summary; with `again` only its failed rows."""
        ...

    def smoke_test(self, worker: Any, number: int, first: int) -> None:
        """Compute single rows of a part, from the one at index `first`, until one is not a failed row; keep nothing.

        Returning means that the model can work, or that nothing is left with which it could be tested.
        """
        ...

    def silence(self, limits: Limits) -> tuple[float, str]:
        """Longest time in minutes without a heartbeat during a part, and the config field that sets it."""
        ...


class PartActor:
    """A Ray actor of a pool (`cluster.pool`). Its methods are called one after the other.

    Errors that the user has to fix are returned, not raised: Ray would wrap them and lose the cause. Any other error
    that another process might not meet ends this process.
    """

    def __init__(self, heartbeats: Heartbeats, limits: Limits, threads: int) -> None:
        """Load nothing, so that the driver learns that the process exists before it learns whether a model loads."""
        limit_threads(threads)
        spending.begin()
        self.heartbeats, self.limits = heartbeats, limits
        self.watchdog = Watchdog(heartbeats)
        self.model: Any = None

    def placed(self) -> None:
        """Return as soon as the process exists."""

    def take(self, name: str, packed: bytes) -> str | None:
        """Load what a job's parts need; returns the reason if this fails by an error that the user has to fix.

        Args:
            name: name of the job.
            packed: the job, by cloudpickle: unpickling imports modules, which belongs to the watched start.
        """
        what = f"{name}, the start of a worker"
        try:
            with self.watchdog.over(what, self.limits.start_minutes, "cluster.limits.start_minutes"):
                from ray import cloudpickle

                self.job: Job = cloudpickle.loads(packed)
                self.worker = self.job.worker_with(self._engine(self.job.engine))
        except TooSlow as error:  # it may be this machine's network
            self.watchdog.end(f"{what}: {error}")
        except UserError as error:
            return str(error)  # any other worker would be refused, too
        except Exception as error:
            self.watchdog.end(f"{what}: {why(error)}", error)
        return None

    def _engine(self, engine: Engine | None) -> Any:
        if engine is not None and self.model is None:
            self.model = engine.load()
        elif (forget := getattr(self.model, "forget", None)) is not None:
            forget()
        return self.model

    def _flush(self) -> None:
        """A pool ends its processes without notice, when all parts are done, too."""
        if (flush := getattr(self.model, "flush", None)) is not None:
            flush()

    def compute(self, number: int, again: bool) -> dict[str, Any]:
        """Compute a part and write its file; returns its summary, or STOPPED with the reason; SPENT in any case.

        Args:
            number: number of the part.
            again: whether to retry only the failed rows of the existing file.
        """
        what = f"{self.job.name}, part {number}"
        try:
            summary: dict[str, Any] = self._watched(what, lambda: self.job.compute(self.worker, number, again=again))
        except UserError as error:
            summary = {STOPPED: str(error)}
        told = spending.told()
        return {**summary, SPENT: told} if told else summary

    def smoke_test(self, number: int, first: int) -> str | None:
        """Compute a row of a part and keep nothing (see `Job`); returns the reason if the user has to fix something."""
        what = f"{self.job.name}, one row of part {number}"
        try:
            self._watched(what, lambda: self.job.smoke_test(self.worker, number, first))
        except UserError as error:
            return str(error)
        return None

    def _watched(self, what: str, work: Callable[[], Any]) -> Any:
        """Work under the watchdog; if this process cannot, it ends and the work goes to another one."""
        try:
            with self.watchdog.over(what, *self.job.silence(self.limits)):
                try:
                    return work()
                finally:
                    self._flush()
        except PartGivenUp as error:
            words = self.heartbeats.all_words()
            raise PartGivenUp(f"{error} The last of them said: {words[-1]}" if words else str(error)) from error
        except (WorkerLost, TooSlow) as error:
            self.watchdog.end(f"{what}: {error}")
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self.watchdog.end(f"{what}: out of memory ({type(error).__name__}: {error})")


def compute_part(job: PartJob, worker: PartWorker, number: int, *, again: bool) -> dict[str, Any]:
    """Compute a part, write its file, and return its summary.

    Args:
        job: the stage.
        worker: the object that computes it.
        number: number of the part.
        again: whether to retry only the failed rows of the existing file.
    """
    asked_ids = ids = ids_of_part(job, number)
    before = tables.read_part(job.folder, number) if again else None
    if before is not None:  # only its failed rows are retried
        asked_ids = before.filter(pc.is_valid(before["error"]))[key_of(before.schema.names)].to_numpy()
    quarantine = Quarantine(job.folder, number)
    asked = job.samples.take(asked_ids, list(job.columns)) if len(asked_ids) else None
    began = time.monotonic()
    rows = None if asked is None else quarantine.process(asked, worker.process, job.schema)
    seconds = time.monotonic() - began
    done = _merged(before, rows, ids, job.schema)
    summary = summary_of(done, _places(asked)) | {SECONDS: seconds}
    earlier = [] if before is None else tables.part_summary(job.folder, number).get(REMARKS, [])
    if remarks := sorted({*earlier, *remarks_of(worker)}):
        summary[REMARKS] = remarks
    # The file's footer holds the summary, so that a resumed run reads it without the rows.
    facts = {**(done.schema.metadata or {}), tables.SUMMARY: json.dumps(summary).encode()}
    tables.write_part(job.folder, number, done.replace_schema_metadata(facts))
    quarantine.finished()
    if before is None or rows is None:
        return summary
    return {**summary, COMPUTED: summary_of(rows.cast(job.schema), _places(asked))}


def ids_of_part(job: PartJob, number: int) -> npt.NDArray[np.int64]:
    """The image ids of a part, from the stage's file of ids; raises StageStopped where that file is not visible."""
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
    """The part's rows in the order of `ids`; checks that each id occurs exactly once."""
    if before is not None:
        kept = tables.conform(before.filter(pc.is_null(before["error"])), schema)
        rows = kept if rows is None else pa.concat_tables([kept, rows.cast(schema)])
    if rows is None:
        raise ValueError("a part without rows")
    key = key_of(schema.names)
    rows = rows.cast(schema).sort_by(key)
    if not np.array_equal(rows[key].to_numpy(), np.sort(np.asarray(ids))):
        raise ValueError(f"the worker did not return exactly one row for each {key} it was given")
    return rows


def _places(asked: pa.Table | None) -> dict[int, str]:
    """URIs of the computed images, or names of the classes, which always include a part's failed rows."""
    names = [] if asked is None else asked.schema.names
    place = next((name for name in ("uri", "name") if name in names), None)
    if asked is None or place is None:
        return {}
    return dict(zip(asked[key_of(names)].to_pylist(), asked[place].to_pylist(), strict=True))


def summary_of(rows: pa.Table, places: Mapping[int, str]) -> dict[str, Any]:
    """The summary of a part in its footer; `places`: URIs of the images, for examples of failures."""
    failures = Failures.in_rows(rows, places)
    counts, examples = dict(failures.counts), failures.examples_json()
    return {"rows": rows.num_rows, "failures": counts, "examples": examples, "totals": token_totals(rows)}


def limit_threads(threads: int) -> None:
    """Limit a worker's threads to its reserved cores; libraries read these variables before their first use."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    # Importing it here would cost every worker seconds and a gigabyte, even if it never uses it.
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def why(error: BaseException) -> str:
    """An error in one line, with its first cause, since engines wrap the real error."""
    first: BaseException = error
    while (cause := first.__cause__ or (None if first.__suppress_context__ else first.__context__)) is not None:
        first = cause
    said = f"{type(error).__name__}: {error}"
    if first is error or str(first) in said:
        return said
    return f"{said} (caused by {type(first).__name__}: {first})"
