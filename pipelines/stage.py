"""What a stage declares about its table; and a run, which returns its tables by name.

A stage is a value: constructing one runs nothing. Everything else is derived from what it declares: the order of the
tables, the checks before anything is started, the bill, the hours and US$ of the report. Stages refer to each other by
name (`pipelines.registry`), not by import.

The imports at the top of a stage's file must be light, because `--help` runs them: workers, models and heavy libraries
are imported where they are used.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from fgvr.config.base import TrainWorkers, Workers
from fgvr.config.models import Mllm
from fgvr.mllm.openai_server.cache import with_run_replies
from pipelines.photo_counts import Photos
from pipelines.registry import in_order, stage_of

if TYPE_CHECKING:
    import pyarrow as pa

    from cluster.stage import RunContext, StageFolder, StageSummary
    from fgvr.arrays import Ids
    from fgvr.config import Config
    from fgvr.part_worker import PartWorker
    from fgvr.tables import Table
    from pipelines.asks import Asked


log = logging.getLogger(__name__)

Phase = Literal["prepare", "train", "infer"]
Result = TypeVar("Result")


class NotThere(Exception):
    """A table is not finished, so tables made from it cannot be looked up."""


class Stage(ABC):
    """One table of a run: what it reads, what decides it, what computes it.

    Attributes:
        table: the name of its folder, its line in `pipelines.registry`, its MLflow run, and its line on the bill.
        phase: its column in the report's table of costs; None: no method pays for it. `infer`: a method whose
            predictions read the table themselves pays for it by the image.
        one_call: `workers` are asked for one worker and one call (`cluster.once`), not for a pool.
        checked_once: what `check` says is the same of all stages that have it from one class, so one of them is asked.
    """

    table: ClassVar[str]
    phase: ClassVar[Phase | None] = "prepare"
    one_call: ClassVar[bool] = False
    checked_once: ClassVar[bool] = False

    def wanted(self, config: Config) -> bool:
        """Whether a whole job with this config needs the table."""
        return True

    def check(self, config: Config) -> None:  # noqa: B027
        """Raise a UserError that names the field, if the config alone shows that the stage cannot run."""

    def recheck(self, run: Look) -> None:  # noqa: B027
        """Repeat the check with finished tables, each time one of its inputs is finished; may raise NotThere."""

    def splits(self, config: Config) -> Iterable[tuple[str, str]]:
        """Config fields that name splits of the samples, with these splits, which must exist."""
        return ()

    def workers(self, config: Config) -> str | None:
        """The config field with its workers, such as `label.workers`; None: the driver computes it."""
        return None

    def model(self, config: Config) -> str | None:
        """The config field with the language model that it asks, such as `mllm`; None: it asks none."""
        return None

    def reads(self, run: Run) -> Iterable[str]:
        """Tables from which it is made: its fingerprint holds their versions, in this order.

        A name may depend on the content of tables named before it: each is finished when the next name is requested.
        """
        return ()

    def consults(self, run: Run) -> Iterable[str]:
        """Other tables that decide what it computes (which images, which names): the recipe holds what they say."""
        return ()

    def pays(self, run: Run) -> Iterable[str]:
        """Further tables that a method pays for if it pays for this one."""
        return self.reads(run)

    def versions(self, run: Run) -> Mapping[str, str]:
        """Tables among `reads` for which the fingerprint uses a version other than the current one."""
        return {}

    @abstractmethod
    def recipe(self, run: Run) -> Any:
        """What decides the content besides its input tables: parts of the config and plain values."""

    def asks(self, run: Run) -> Asked:
        """The load on the stage's model, estimated from the config and `run.photos`."""
        raise NotImplementedError(f"{self.table} asks no model")

    @abstractmethod
    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Write the parts and files of the table into its folder."""

    def made(self, run: Run, table: Table) -> None:  # noqa: B027
        """Called when the table is finished, now or earlier: update what the run keeps beside its tables."""


@dataclass(frozen=True)
class RowJob:
    """The work of a row-parallel stage's workers.

    Attributes:
        ids: int64 [n], ascending; one row per image.
        worker: the PartWorker class, instantiated once per actor.
        arguments: its keyword arguments; must pickle.
        schema: schema of the rows.
        columns: columns of the samples table that the worker needs.
    """

    ids: Ids
    worker: Callable[..., PartWorker]
    arguments: Mapping[str, Any]
    schema: pa.Schema
    columns: tuple[str, ...] = ("image_id", "uri")


class RowStage(Stage):
    """A stage over many images, whose rows are computed by workers in parallel parts; see `cluster.parts`."""

    @abstractmethod
    def job(self, run: Run) -> RowJob:
        """The work of its workers."""

    def settled(self, run: Run, folder: StageFolder) -> Mapping[str, Any]:
        """Arguments of the worker that the table itself decides, such as the precision of its first parts."""
        return {}

    def finish(self, run: Run, summary: StageSummary) -> None:
        """Add to the metadata of the finished table."""

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Compute the missing parts."""
        from cluster.parts import PartJob
        from fgvr.mllm.backends import backend_engine, exactly

        job, place = self.job(run), self.workers(run.config)
        workers = workers_at(run.config, place)
        if place is None or not isinstance(workers, Workers):
            raise TypeError(f"{self.table}: a row-parallel stage needs a pool of workers")
        arguments = {**job.arguments, **self.settled(run, folder)}
        samples = run.table("samples")
        model = model_of(self, run.config)
        parts = PartJob(
            self.table,
            folder.uri,
            job.worker,
            arguments,
            job.schema,
            samples,
            workers,
            job.columns,
            engine=None if model is None else backend_engine(exactly(model)),
            keep_engine=run.still_asks(self),
        )
        summary = folder.run_parts(parts, job.ids, place)
        self.finish(run, summary)
        return summary


def setting(config: Config, place: str) -> Any:
    """The value of a config field, by its dotted name; items of lists by their numbers (`label.sources.0.mllm`)."""
    value: Any = config
    for name in place.split("."):
        value = value[int(name)] if isinstance(value, tuple) else getattr(value, name)
    return value


def workers_at(config: Config, place: str | None) -> Workers | TrainWorkers | None:
    """The workers in a field of the config."""
    workers: Workers | TrainWorkers | None = None if place is None else setting(config, place)
    return workers


def model_of(stage: Stage, config: Config) -> Mllm | None:
    """The language model that a stage asks, or None."""
    place = stage.model(config)
    model: Mllm | None = None if place is None else setting(config, place)
    return model


def _asked_of(stage: Stage, config: Config) -> tuple[Mllm, Mapping[str, Any]] | None:
    """The language model that a stage asks and what its workers reserve, which `cluster.lending` compares."""
    from cluster.capacity import reserved

    model, workers = model_of(stage, config), workers_at(config, stage.workers(config))
    return None if model is None or not isinstance(workers, Workers) else (model, reserved(workers))


class Run:
    """The tables of a run by name: finished ones are found, missing ones are computed on request.

    Attributes:
        config: of the run; backends that keep replies with the run know where.
        folder: of the run.
        tables: those that were asked for so far.
        ahead: names of all tables that this session asks for, once that is known (`expect`).
        there: those of them that will only be found.
    """

    computes: ClassVar[bool] = True
    """False: it only looks up finished tables, and measures, asks or starts nothing."""

    def __init__(self, context: RunContext, given: Mapping[str, Table] | None = None) -> None:
        """Wrap an open run; `given` are tables that are known already."""
        self.context = context
        self._open(context.config, context.folder, given)

    def _open(self, config: Config, folder: str, given: Mapping[str, Table] | None) -> None:
        self.config, self.folder = with_run_replies(config, folder), folder
        self.tables: dict[str, Table] = dict(given or {})
        self.ahead: list[str] = []
        self.there: set[str] = set()
        self.memory: dict[Callable[..., Any], Any] = {}
        self.of_samples: dict[Callable[..., Any], Any] = {}

    def table(self, name: str) -> Table:
        """The table of that name, computed if it is missing.

        Raises:
            UserError: it cannot be computed with this config.
        """
        if name not in self.tables:
            stage = stage_of(name)
            for other in stage.consults(self):
                self.table(other)
            inputs = [self.table(other) for other in stage.reads(self)]
            self.tables[name] = self._made(stage, inputs)
        return self.tables[name]

    @property
    def photos(self) -> Photos:
        """The number of photos per split and class."""
        return photos_of(self)

    def keep(self, name: str, data: bytes) -> None:
        """Write a file to the run folder: something decided once for all later sessions."""
        self.context.keep(name, data)

    def looking(self) -> Look:
        """The same run, without computing anything."""
        look = Look(self.config, self.folder, given=self.tables)
        look.memory |= self.memory
        if "samples" in self.tables:  # it will not be another one
            look.of_samples = self.of_samples
        return look

    def expect(self, names: Iterable[str]) -> None:
        """Say which tables will be asked for, so that `later` knows."""
        look = self.looking()
        self.ahead = closure(look, names)
        self.there = set(self.ahead).difference(unfinished(look, self.ahead))

    def later(self) -> list[Stage]:
        """Stages whose tables this session will still compute: what they need should not be given away."""
        return [stage_of(name) for name in self.ahead if name not in self.tables and name not in self.there]

    def still_asks(self, stage: Stage) -> bool:
        """Whether a later stage asks the same model in workers of the same kind, so that its engine can stay for it.

        Yes where nobody said what comes.
        """
        if not self.ahead:
            return True
        asked = _asked_of(stage, self.config)
        others = [other for other in self.later() if other.table != stage.table]
        return asked is not None and any(_asked_of(other, self.config) == asked for other in others)

    def _made(self, stage: Stage, inputs: Sequence[Table]) -> Table:
        table = self.context.stage(
            stage.table,
            decides=stage.recipe(self),
            inputs=inputs,
            compute=lambda folder: stage.compute(self, folder),
            workers=workers_at(self.config, stage.workers(self.config)),
            versions=stage.versions(self),
        )
        stage.made(self, table)
        return table


@dataclass(frozen=True)
class Unfinished:
    """A row-parallel stage that is not started or not finished.

    Attributes:
        job: the work of its workers.
        folder: the folder of the table.
        left: int64, ascending ids of the images with missing rows; with failed rows, where the config says to retry
            them.
        done: finished parts.
    """

    job: RowJob
    folder: str
    left: Ids
    done: Collection[int] = field(default_factory=set)


class Look(Run):
    """A read-only view of a run: computes, writes and asks nothing; `table` raises NotThere."""

    computes = False

    def __init__(
        self, config: Config, folder: str, photos: Photos | None = None, given: Mapping[str, Table] | None = None
    ) -> None:
        """Look into a run folder.

        Args:
            config: the config of the run.
            folder: the run folder, which need not exist.
            photos: counts of a source that is not listed yet; None: use those of the samples table.
            given: tables that are known already.
        """
        self._open(config, folder, given)
        self.given = frozenset(self.tables)
        self.unfinished: dict[str, Unfinished] = {}
        self._photos = photos

    @classmethod
    def of(cls, config: Config) -> Look:
        """The run that a config names; it need not be open."""
        from fgvr import storage

        return cls(config, storage.join(storage.absolute(config.run.folder), config.run.name))

    @property
    def photos(self) -> Photos:
        """The given counts, or else those of the samples table, or else the counts that the source expects."""
        if self._photos is None:
            try:
                return photos_of(self)
            except NotThere:
                self._photos = Photos.expected(self.config.ingest.source)
        return self._photos

    def table(self, name: str) -> Table:
        """The finished table; raises NotThere. With given photo counts the samples table counts as missing."""
        if name == "samples" and self._photos is not None and name not in self.tables:
            raise NotThere(name)
        return super().table(name)

    def count(self, photos: Photos) -> None:
        """Set the number of photos that there are, or will be."""
        self._photos = photos

    def keep(self, name: str, data: bytes) -> None:
        """Write nothing: the run that computes will decide it again."""

    def looking(self) -> Look:
        """This view itself."""
        return self

    def retries(self, table: Table | None) -> bool:
        """Whether failed rows of a table, from this or an earlier session, will be retried."""
        from cluster.begun import limits_raised

        return self.config.run.retry_failed or limits_raised(table, self.config.ingest.limits)

    def _made(self, stage: Stage, inputs: Sequence[Table]) -> Table:
        from cluster.fingerprint import fingerprint_of
        from cluster.stage_files import finished
        from fgvr import storage

        fingerprint = fingerprint_of(stage.table, stage.recipe(self), inputs, stage.versions(self))
        uri = storage.join(self.folder, "tables", stage.table, fingerprint)
        table = finished(uri)
        if table is not None:
            return table
        if isinstance(stage, RowStage) and stage.model(self.config) is not None:
            self.unfinished[stage.table] = self._left(stage, uri)
        raise NotThere(stage.table)

    def _left(self, stage: RowStage, uri: str) -> Unfinished:
        import numpy as np

        from cluster.stage_files import RETRYING, begun_rows_per_part, finished
        from fgvr import tables

        job, workers = stage.job(self), workers_at(self.config, stage.workers(self.config))
        size = begun_rows_per_part(uri) or (workers.rows_per_part if isinstance(workers, Workers) else 1)
        retry, done = self.retries(finished(uri, RETRYING)), tables.finished_parts(uri)
        left = [np.zeros(0, np.int64)]
        for part, start in enumerate(range(0, len(job.ids), size)):
            if part not in done:
                left.append(job.ids[start : start + size])
            elif retry and tables.part_summary(uri, part)["failures"]:
                rows = tables.read_part(uri, part)
                left.append(np.sort(rows.filter(rows["error"].is_valid())["image_id"].to_numpy()))
        return Unfinished(job, uri, np.concatenate(left), done)


@contextmanager
def quietly() -> Iterator[None]:
    """Silence logs while looking for a table that may not exist; the same messages appear when it is computed."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with suppress(NotThere):
            yield
    finally:
        logging.disable(before)


def per_run(function: Callable[[Run], Result]) -> Callable[[Run], Result]:
    """The function's value is found once per run and kept with it."""
    return _kept(function, lambda run: run.memory)


def per_samples(function: Callable[[Run], Result]) -> Callable[[Run], Result]:
    """The same of a function of the config and the samples alone: all looks at a run share the value with it."""
    return _kept(function, lambda run: run.of_samples)


def _kept(
    function: Callable[[Run], Result], place: Callable[[Run], dict[Callable[..., Any], Any]]
) -> Callable[[Run], Result]:
    @wraps(function)
    def kept(run: Run) -> Result:
        values = place(run)
        if function not in values:
            values[function] = function(run)
        result: Result = values[function]
        return result

    return kept


@per_samples
def photos_of(run: Run) -> Photos:
    """The counts of the samples table."""
    return Photos.of_rows(run.table("samples").batches(["split", "class_id"]))


def needs(run: Run, name: str) -> list[str]:
    """Tables that a table reads or consults, as far as they are known now."""
    stage = stage_of(name)
    return [*so_far(stage.consults, run), *so_far(stage.reads, run)]


def so_far(names: Callable[[Run], Iterable[str]], run: Run) -> list[str]:
    """The names that can be determined before an unfinished table is needed."""
    found: list[str] = []
    with quietly():
        for name in names(run):
            found.append(name)  # noqa: PERF402  # it may end with NotThere
    return found


def closure(run: Look, names: Iterable[str]) -> list[str]:
    """These tables and all tables that they need, in the order of the registry."""
    return reached(names, lambda name: needs(run, name))


def reached(names: Iterable[str], following: Callable[[str], Iterable[str]]) -> list[str]:
    """These tables and all that follow from them, directly or by way of others, in the order of the registry."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += following(name)
    return in_order(found)


def unfinished(run: Look, names: Sequence[str]) -> list[str]:
    """Those of these tables that are not there, have failed rows that are tried again, or need one of these.

    Not those that the look was given: what was to be done for them is done.
    """
    left: set[str] = set()
    asked = [name for name in names if name not in run.given]
    for name in asked:
        try:
            with quietly():
                run.table(name)
        except Exception as error:  # whoever computes the stage says it again, and better
            log.debug("%s could not be looked for: %s", name, error)
        table = run.tables.get(name)
        if table is None or (table.failed and run.retries(table)):
            left.add(name)
    while more := [name for name in asked if name not in left and not left.isdisjoint(needs(run, name))]:
        left.update(more)
    return [name for name in asked if name in left]
