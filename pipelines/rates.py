"""What stages still have to do, and the cost per row: measured in this run, probed, or as docs/scaling.md assumes.

Rows of finished parts count as done, and so do requests whose replies are cached, and finished epochs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.stage_files import PROGRESS, Plan, StageClock, finished
from fgvr import storage, tables
from fgvr.mllm.backend import ASSUMED_BILLIONS
from fgvr.mllm.backends import provider
from pipelines.asks import Ask, Load, Task
from pipelines.probed import read_probed
from pipelines.registry import stage_of
from pipelines.run_tables import Look, Unfinished, quietly

log = logging.getLogger(__name__)

NAMES_A_SECOND, QUESTIONS_50_A_SECOND = 20.0, 5.0
"""Images per second and GPU for naming, and for 50 questions on a cached prefix: assumed in docs/scaling.md for a model
of 8 billion parameters, not measured."""
LIKE = {
    "eval_mllm_answers": ("answers", "first_answers"),
    "findr_answers": ("answers", "first_answers"),
    "finer_aspects": ("aspects",),
    "answers": ("first_answers",),
    "second_answers": ("first_answers",),
    "base": ("makd",),
    "eval_makd": ("predictions",),
    "eval_base": ("predictions",),
}
"""Stages that do the same with other images."""
LOOKED_AT = 64
"""Number of images whose requests are looked up in the reply cache: a sample, or all images where there are fewer."""
FOOTERS = 64
HERE, EARLIER = "measured in this run", "an earlier table of this run"
"""Where a rate comes from, beside a probe (`Probed.words`) and assumptions."""


@dataclass(frozen=True)
class Rate:
    """Cost per row and pass.

    Attributes:
        seconds: wall seconds of the whole pool; None: unknown.
        source: where the seconds come from, in words.
        load: tokens per row; None: unknown.
    """

    seconds: float | None
    source: str = HERE
    load: Load | None = None


class There:
    """What is already computed of the stages of a plan."""

    def __init__(self, look: Look, stages: Collection[str]) -> None:
        """Look for the tables of these stages in the run folder."""
        self.look = look
        self._probed = read_probed(look.folder)
        for stage in stages:
            try:
                with quietly():
                    look.table(stage)
            except Exception as error:  # computing the stage raises the same error, with more context
                log.debug("%s could not be looked for: %s", stage, error)

    def rows(self, ask: Ask) -> int:
        """Number of missing rows, without those whose replies are cached."""
        found, begun = self.look.tables.get(ask.stage), self.look.unfinished.get(ask.stage)
        if found is not None:
            return found.failed if self.look.retries(found) else 0
        if begun is None:
            return ask.rows
        return round(len(begun.left) * (1 - _kept(self.look, begun, ask)))

    def left(self, task: Task) -> tuple[int, float]:
        """Missing rows of a stage without a model, and the passes that are left over each of them."""
        found, work = self.look.tables.get(task.stage), task.work
        if found is not None:
            return (found.failed if self.look.retries(found) else 0), work.epochs
        begun = self._begun(task.stage)
        if begun is None:
            return work.rows, work.epochs
        folder, plan = begun
        if plan.training is not None:
            return work.rows, max(0.0, work.epochs - _epochs_done(folder, plan))
        return (plan.rows or work.rows) - sum(plan.rows_of(part) for part in tables.finished_parts(folder)), 1.0

    def is_whole(self, stage: str) -> bool:
        """Whether all of a stage's table is still to be made, so that its estimate is one of the whole table."""
        if stage in self.look.tables:
            return False
        asked, begun = self.look.unfinished.get(stage), self._begun(stage)
        if asked is not None:
            return not asked.done
        return begun is None or not (begun[1].training or tables.finished_parts(begun[0]))

    def rate(self, stage: str, workers: int = 1) -> Rate | None:
        """The rate of this stage, or of one that does the same with other images: measured here, else probed.

        Args:
            stage: name of its table.
            workers: size of the pool, which shares what a probe measured on one worker.
        """
        asks = stage_of(stage).model(self.look.config) is not None
        like = [name for name in LIKE.get(stage, ()) if not asks or stage_of(name).model(self.look.config) is not None]
        names = (stage, *like)  # without those that take their answers from others, in no time
        for name in names:
            table, begun = self.look.tables.get(name), self.look.unfinished.get(name)
            if table is not None and table.rows:
                return _of_table(table, HERE)
            if begun is not None and begun.done and (rate := _measured(begun)) is not None:
                return rate
            if begun is None and (found := self._begun(name)) is not None and (rate := _begun_rate(*found)) is not None:
                return rate
        for name in names:
            probed = self._probed.of(name, self.look.config)
            if probed is not None:
                seconds = None if probed.seconds is None else probed.seconds / workers
                return Rate(seconds, probed.words, probed.load)
        return None

    def earlier(self, stage: str) -> Rate | None:
        """The rate of the largest finished table of this stage with another fingerprint.

        It may have been made with other settings, so it serves only stages without a model, for which nothing can be
        assumed.
        """
        folder = storage.join(self.look.folder, "tables", stage)
        versions = [storage.join(folder, name) for name in storage.list_entries(folder)[1]]
        found = [table for version in versions if (table := finished(version)) is not None and table.rows]
        return _of_table(max(found, key=lambda table: table.rows), EARLIER) if found else None

    def _begun(self, stage: str) -> tuple[str, Plan] | None:
        folder = self.look.begun.get(stage)
        plan = None if folder is None else Plan.read(folder)
        return None if folder is None or plan is None else (folder, plan)


def assumed_seconds(ask: Ask, rows: int) -> float | None:
    """Wall seconds at the assumed rates; None for a server and for simulated models, which have no assumed rate.

    An engine whose workers reserve no GPU is taken as running on a GPU, since no rate is known for CPUs.
    """
    billions = provider(ask.model).billions()
    if billions is None:
        return None
    gpus = ask.workers.max_workers * ask.workers.num_gpus or 1
    a_name = 1 / NAMES_A_SECOND
    more = (1 / QUESTIONS_50_A_SECOND - a_name) / 49  # each further question about the same image
    each = a_name + more * max(0.0, ask.row.requests - 1)
    return rows * each * billions / ASSUMED_BILLIONS / gpus


def _of_table(table: tables.Table, source: str) -> Rate:
    """The rate of a finished table; of a training per row and epoch."""
    metrics = table.extra.get("metrics", {})
    counts = {name: float(value) for name, value in metrics.items() if name.endswith("_tokens")}
    passes = max(1.0, float(metrics.get("epoch", 1.0)))
    return Rate(table.seconds / (table.rows * passes), source, _counted(counts, table.rows))


def _begun_rate(folder: str, plan: Plan) -> Rate | None:
    """The rate of a begun table without a model, over its finished parts.

    None for a training run: its plan does not say how many images it has.
    """
    seconds = StageClock(folder).seconds
    rows = sum(plan.rows_of(part) for part in tables.finished_parts(folder))
    return Rate(seconds / rows) if rows and seconds >= 1 else None


def _epochs_done(folder: str, plan: Plan) -> float:
    """Finished epochs of a training run as it last reported them."""
    try:
        told: dict[str, Any] = json.loads(storage.read_bytes(storage.join(folder, plan.training or "", PROGRESS)))
    except FileNotFoundError:
        return 0.0
    return float(told.get("epoch", 0.0))


def _measured(begun: Unfinished) -> Rate | None:
    """The rate over finished parts: their tokens, and the time that the stage has taken so far."""
    folder = begun.folder
    done = sorted(begun.done)
    looked_at = done[:: max(1, -(-len(done) // FOOTERS))]
    summaries = [tables.part_summary(folder, part) for part in looked_at]
    rows = sum(summary["rows"] for summary in summaries)
    seconds = StageClock(folder).seconds
    if not rows or seconds < 1:  # too little to measure a rate
        return None
    counts: dict[str, float] = {}
    for summary in summaries:
        for name, count in summary["totals"].items():
            counts[name] = counts.get(name, 0) + count
    return Rate(seconds / (rows * len(done) / len(looked_at)), HERE, _counted(counts, rows))


def _counted(counts: Mapping[str, float], rows: int) -> Load | None:
    """Tokens per row; None where none were counted, as with a server that does not report them."""
    prompt = counts.get("prompt_tokens", 0)
    if not prompt:
        return None
    return Load(0, prompt / rows, counts.get("cached_tokens", 0) / rows, counts.get("output_tokens", 0) / rows)


def _kept(look: Look, begun: Unfinished, ask: Ask) -> float:
    """Share of the remaining requests with cached replies, estimated from some images; 0 without a cache."""
    backend = provider(ask.model).kept_replies()
    if backend is None or not len(begun.left):
        return 0.0
    job, left = begun.job, begun.left
    some = left[np.unique(np.linspace(0, len(left) - 1, min(LOOKED_AT, len(left))).round().astype(int))]
    job.worker(**job.arguments, backend=backend).process(job.source(look).take(some, list(job.columns)))
    return backend.share
