"""A run, which gives its tables by name, and what can be known about tables before they are computed.

Finished tables are found by their fingerprints, missing ones are computed on request (`Run`); `Look` only looks.
Stages (`pipelines.stage`) refer to each other by name, so what a table needs, directly or by way of others (`closure`),
is only known as far as the tables that decide it are finished.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from fgvr.config.base import Workers
from fgvr.config.models import Mllm
from fgvr.mllm.openai_server.cache import with_run_replies
from fgvr.tables import GROWN, Table
from pipelines.photo_counts import Photos
from pipelines.registry import in_order, stage_of
from pipelines.stage import RowJob, RowStage, Stage, model_of, workers_at

if TYPE_CHECKING:
    from cluster.stage import RunContext
    from fgvr.arrays import Ids
    from fgvr.config import Config

log = logging.getLogger(__name__)

Result = TypeVar("Result")


GROWING = frozenset(
    {
        *("samples", "photo_checks", "findings", "embeddings", "predictions"),
        *("second_looks", "decided", "drift_scores", "drift", "novel"),  # what is said of each prediction
    }
)
"""Tables that photos are added to with `run.increment = keep`; all others are left where they are there."""


class NotThere(Exception):
    """A table is not finished, so tables made from it cannot be looked up."""


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
        before: called with a stage whose inputs are finished, before its table is computed or found.
        after: called with the name of a table that is finished.
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
        self._looked = 0
        self.before: Callable[[Stage], None] = lambda _: None
        self.after: Callable[[str], None] = lambda _: None
        self.memory: dict[Callable[..., Any], Any] = {}
        self.of_samples: dict[Callable[..., Any], Any] = {}

    def table(self, name: str) -> Table:
        """The table of that name, computed if it is missing.

        Raises:
            UserError: it cannot be computed with this config.
        """
        if name not in self.tables and (left := self._as_before(name)) is not None:
            self.tables[name] = left
        if name not in self.tables:
            stage = stage_of(name)
            for other in stage.consults(self):
                self.table(other)
            inputs = [self.table(other) for other in stage.reads(self)]
            self.before(stage)
            if name not in self.tables:  # else it was needed by what came before it
                self.tables[name] = self._made(stage, inputs)
                self.after(name)
        return self.tables[name]

    def _as_before(self, name: str) -> Table | None:
        """The table as it was before photos were added, where `run.increment` leaves it; None where it is not."""
        if name in GROWING or self.config.run.increment != "keep":
            return None
        samples = self.table("samples")
        if not samples.extra.get(GROWN):
            return None
        place, _, _ = samples.uri.rstrip("/").rpartition("/")
        earlier, found = Table.load(f"{place}/{samples.extra[GROWN][-1]['fingerprint']}"), None
        with quietly():
            found = Look(self.config, self.folder, given={"samples": earlier}).table(name)
        if found is not None and self.computes:
            log.info("%s: left as it was before photos were added (%s rows)", name, f"{found.rows:,}")
        return found

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
        self._looked = len(self.tables)

    def later(self) -> list[Stage]:
        """Stages whose tables this session will still compute: what they need should not be given away."""
        waiting = [name for name in self.ahead if name not in self.tables and name not in self.there]
        if self._looked != len(self.tables):  # one that was finished since may show that others are there already
            self._looked = len(self.tables)
            left = unfinished(self.looking(), waiting)
            self.there.update(name for name in waiting if name not in left)
            waiting = left
        return [stage_of(name) for name in waiting]

    def still_asks(self, stage: Stage) -> bool:
        """Whether a later stage asks the same model in workers of the same kind, so that its engine can stay for it.

        Yes where nobody said what comes.
        """
        if not self.ahead:
            return True
        asked = _asked_of(stage, self.config)
        others = [other for other in self.later() if other.table != stage.table]
        return asked is not None and any(_asked_of(other, self.config) == asked for other in others)

    def _in_words(self, stage: Stage) -> str:
        """Which of the expected tables this is, and what it holds, for the console: ", 3 of 18: the labels of …"."""
        first, _, _ = (stage.__doc__ or "").strip().partition(".")
        held = f": {first[:1].lower()}{first[1:]}" if first else ""
        if stage.table not in self.ahead:
            return held
        number = 1 + sum(name in self.tables for name in self.ahead)
        return f", {number} of {len(self.ahead)}{held}"

    def _made(self, stage: Stage, inputs: Sequence[Table]) -> Table:
        table = self.context.stage(
            stage.table,
            decides=stage.recipe(self),
            inputs=inputs,
            compute=lambda folder: stage.compute(self, folder),
            workers=workers_at(self.config, stage.workers(self.config)),
            versions=stage.versions(self),
            what=self._in_words(stage),
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
        self.begun: dict[str, str] = {}
        """Folders of tables that are not finished, whether or not anything is in them, by table."""
        self._missing: set[str] = set()
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
        counted = name == "samples" and self._photos is not None
        # Many tables need a missing one: a store is asked for it once.
        if name not in self.tables and (counted or name in self._missing):
            raise NotThere(name)
        try:
            return super().table(name)
        except NotThere:
            self._missing.add(name)
            raise

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
        self.begun[stage.table] = uri
        if isinstance(stage, RowStage) and stage.model(self.config) is not None:
            self.unfinished[stage.table] = self._left(stage, uri)
        raise NotThere(stage.table)

    def _left(self, stage: RowStage, uri: str) -> Unfinished:
        import numpy as np

        from cluster.stage_files import RETRYING, begun_rows_per_part, finished
        from fgvr import tables
        from fgvr.schemas import Reason, key_of

        job, workers = stage.job(self), workers_at(self.config, stage.workers(self.config))
        size = begun_rows_per_part(uri) or (workers.rows_per_part if isinstance(workers, Workers) else 1)
        retry, done = self.retries(finished(uri, RETRYING)), tables.finished_parts(uri)
        left = [np.zeros(0, np.int64)]
        for part, start in enumerate(range(0, len(job.ids), size)):
            if part not in done:
                left.append(job.ids[start : start + size])
            elif (failures := tables.part_summary(uri, part)["failures"]) and (retry or Reason.NOT_YET in failures):
                rows = tables.read_part(uri, part)
                left.append(np.sort(rows.filter(rows["error"].is_valid())[key_of(rows.schema.names)].to_numpy()))
        ids = np.concatenate(left)
        known = stage.rows_known(self, uri.rpartition("/")[2]) if len(ids) else None
        if known is not None:
            ids = np.setdiff1d(ids, known.ids(), assume_unique=True)
        return Unfinished(job, uri, ids, done)


@contextmanager
def quietly() -> Iterator[None]:
    """Silence this thread's logs while looking for a table that may not exist; they appear when it is computed.

    Other threads go on warning: of a store that does not answer, of a lease that is lost.
    """
    thread = threading.get_ident()

    def is_of_another(record: logging.LogRecord) -> bool:
        return record.thread != thread

    handlers = [*logging.root.handlers, *([logging.lastResort] if logging.lastResort else [])]
    for handler in handlers:
        handler.addFilter(is_of_another)
    try:
        with suppress(NotThere):
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_of_another)


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
