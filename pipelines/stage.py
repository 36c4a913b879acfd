"""What a stage declares about its table.

A stage is a value: constructing one runs nothing. A run (`pipelines.run_tables`) computes its table.
Everything else is derived from what it declares: the order of the tables, the checks before anything is started, the
bill, the hours and US$ of the report. Stages refer to each other by name (`pipelines.registry`), not by import.

The imports at the top of a stage's file must be light, because `--help` runs them: workers, models and heavy libraries
are imported where they are used.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fgvr.config.base import TrainWorkers, Workers
from fgvr.config.models import Mllm

if TYPE_CHECKING:
    import pyarrow as pa

    from cluster.kept_rows import Known
    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids
    from fgvr.config import Config
    from fgvr.part_worker import PartWorker
    from fgvr.tables import Rows, Table
    from pipelines.asks import Asked, Work
    from pipelines.run_tables import Look, Run

log = logging.getLogger(__name__)

Phase = Literal["prepare", "train", "infer"]


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

    def works(self, run: Run) -> Work | None:
        """The images that a stage without a model reads, estimated as in `asks`; None: it takes seconds at any size."""
        return None

    @abstractmethod
    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Write the parts and files of the table into its folder."""

    def made(self, run: Run, table: Table) -> None:  # noqa: B027
        """Called when the table is finished, now or earlier: update what the run keeps beside its tables."""


@dataclass(frozen=True)
class RowJob:
    """The work of a row-parallel stage's workers.

    Attributes:
        ids: int64 [n], ascending; one row per image, or whatever else `rows` holds.
        worker: the PartWorker class, instantiated once per actor.
        arguments: its keyword arguments; must pickle.
        schema: schema of the rows.
        columns: columns of the samples table, or of `rows`, that the worker needs.
        rows: what the ids number; None: the samples table.
    """

    ids: Ids
    worker: Callable[..., PartWorker]
    arguments: Mapping[str, Any]
    schema: pa.Schema
    columns: tuple[str, ...] = ("image_id", "uri")
    rows: Rows | None = None

    def source(self, run: Run) -> Rows:
        """The rows that the ids number."""
        return run.table("samples") if self.rows is None else self.rows


class RowStage(Stage):
    """A stage over many images, whose rows are computed by workers in parallel parts; see `cluster.parts`."""

    def shows_images(self, config: Config) -> bool:
        """Whether its model must be one that sees images."""
        return True

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
        if job.rows is None:
            self._take_over(run, folder, job)
        arguments = {**job.arguments, **self.settled(run, folder)}
        model = model_of(self, run.config)
        parts = PartJob(
            self.table,
            folder.uri,
            job.worker,
            arguments,
            job.schema,
            job.source(run),
            workers,
            job.columns,
            engine=None if model is None else backend_engine(exactly(model), vision=self.shows_images(run.config)),
            keep_engine=run.still_asks(self),
        )
        summary = folder.run_parts(parts, job.ids, place)
        self.finish(run, summary)
        return summary

    def rows_known(self, run: Run, own: str) -> Known | None:
        """Rows that an earlier table of this stage has already; `own`: fingerprint of the table that needs them."""
        from cluster.kept_rows import known_rows

        if self.job(run).rows is not None:
            return None
        return known_rows(run.folder, self.table, own, self._row_key(run), run.table("samples"))

    def _take_over(self, run: Run, folder: StageFolder, job: RowJob) -> None:
        from cluster.kept_rows import state_rows, take_over

        samples = run.table("samples")
        known = self.rows_known(run, folder.uri.rstrip("/").rpartition("/")[2])
        if known is not None:
            size = folder.rows_per_part(known.table.rows_per_part)
            count = take_over(known, folder.uri, job.ids, size, job.schema)
            if count:
                log.info("%s: %s rows are there from before and are taken over", self.table, f"{count:,}")
        state_rows(folder.uri, self._row_key(run), samples)

    def _row_key(self, run: Run) -> str:
        """What decides one row: all that decides the table but the choice of the photos and their listing."""
        from cluster.fingerprint import fingerprint_of

        recipe = self.recipe(run)
        if isinstance(recipe, Mapping):
            recipe = {name: value for name, value in recipe.items() if name not in CHOICE}
        inputs = [run.table(name) for name in self.reads(run) if name != "samples"]
        return fingerprint_of(self.table, recipe, inputs, self.versions(run))


CHOICE = frozenset({"ids", "splits"})
"""Keys of a recipe that say which photos there are, and nothing of what becomes of one."""


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
