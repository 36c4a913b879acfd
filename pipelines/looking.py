"""What of a run is there already: the stages' own code, with a context that finds tables and computes none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.parts import PartJob
from cluster.stage import RunContext, StageFolder, StageSummary, fingerprint_of
from cluster.stage_files import RETRYING, begun_rows_per_part, finished
from fgvr import storage, tables
from fgvr.config import Config
from fgvr.config.base import TrainWorkers, Workers
from fgvr.tables import Table
from fgvr.training.targets import Ids

ROW_PARALLEL = frozenset(
    {"looks", "answers", "aspects", "class_scores", "eval_mllm_answers", "finer_aspects", "findr_answers"}
)
"""Stages that ask, and whose `compute` begins with `StageFolder.run_parts`."""


class NotThere(Exception):
    """A table is not finished, so what is made of it cannot be looked for."""


@dataclass(frozen=True)
class Unfinished:
    """A row-parallel stage that was not begun, or not ended.

    Attributes:
        job: what its workers are to compute.
        left: int64, ascending ids of the images whose rows are not there; failed ones among them where the config says
            that they are tried again.
        done: parts that are there.
    """

    job: PartJob
    left: Ids
    done: Collection[int]


class _Folder(StageFolder):
    """A folder that takes nothing and says what would be computed."""

    def run_parts(self, job: PartJob, ids: Ids, field: str | None = None) -> StageSummary:
        if isinstance(self.context, Looking):
            self.context.unfinished[job.name] = _left(job, ids, retry=self.retry_failed)
        raise NotThere(job.name)


class Looking(RunContext):
    """A run context for `pipelines.flow.Flow` whose stages are found or are not there; it writes nothing."""

    computes = False

    def __init__(self, config: Config, folder: str) -> None:
        """Of the run in `folder`, which need not be there."""
        super().__init__(config, folder, tracker=None)  # type: ignore[arg-type]  # nothing is told to anybody
        self.found: dict[str, Table] = {}
        self.unfinished: dict[str, Unfinished] = {}

    def keep(self, name: str, data: bytes) -> None:
        """Nothing: the run that computes it settles it again."""

    def stage(
        self,
        name: str,
        *,
        decides: Any,
        inputs: Sequence[Table],
        compute: Callable[[StageFolder], StageSummary],
        workers: Workers | TrainWorkers | None = None,
    ) -> Table:
        """The finished table; raises NotThere."""
        uri = storage.join(self.folder, "tables", name, fingerprint_of(name, decides, inputs))
        table = finished(uri)
        if table is None:
            if name in ROW_PARALLEL:
                compute(_Folder(uri, name, self, self.retries(finished(uri, RETRYING))))
            raise NotThere(name)
        self.found[name] = table
        self.tables.append(table)
        return table


@contextmanager
def quietly() -> Iterator[None]:
    """What the stages' code would say is said when they are computed."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with suppress(NotThere):
            yield
    finally:
        logging.disable(before)


def _left(job: PartJob, ids: Ids, *, retry: bool) -> Unfinished:
    size = begun_rows_per_part(job.folder) or job.workers.rows_per_part
    done = tables.finished_parts(job.folder)
    left = [np.zeros(0, np.int64)]
    for part, start in enumerate(range(0, len(ids), size)):
        if part not in done:
            left.append(ids[start : start + size])
        elif retry and tables.part_summary(job.folder, part)["failures"]:
            rows = tables.read_part(job.folder, part)
            left.append(np.sort(rows.filter(rows["error"].is_valid())["image_id"].to_numpy()))
    return Unfinished(job, np.concatenate(left), done)
