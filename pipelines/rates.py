"""What stages still have to ask, and the cost per row: as measured in this run, or as docs/scaling.md assumes.

Rows of finished parts count as done, and so do requests whose replies are cached.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from cluster.stage_files import StageClock
from fgvr import tables
from fgvr.mllm.backend import ASSUMED_BILLIONS
from fgvr.mllm.backends import provider
from pipelines.asks import Ask, Load
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
}
"""Stages that ask the same about other images."""
LOOKED_AT = 64
"""Number of images whose requests are looked up in the reply cache: a sample, or all images where there are fewer."""
FOOTERS = 64


@dataclass(frozen=True)
class Rate:
    """Measured cost per row: seconds summed over all workers, and tokens; None: unknown."""

    seconds: float
    load: Load | None = None


class There:
    """What is already computed of the stages that ask a model."""

    def __init__(self, look: Look, stages: Collection[str]) -> None:
        """Look for the tables of these stages in the run folder."""
        self.look = look
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

    def rate(self, stage: str) -> Rate | None:
        """The measured rate of this stage, or of one that asks the same about other images."""
        for name in (stage, *LIKE.get(stage, ())):
            if stage_of(name).model(self.look.config) is None:
                continue  # it takes the answers from others, in no time
            table, begun = self.look.tables.get(name), self.look.unfinished.get(name)
            if table is not None and table.rows:
                counts = {k: float(v) for k, v in table.extra.get("metrics", {}).items() if k.endswith("_tokens")}
                return Rate(table.seconds / table.rows, _counted(counts, table.rows))
            if begun is not None and begun.done:
                return _measured(begun)
        return None


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
    return Rate(seconds / (rows * len(done) / len(looked_at)), _counted(counts, rows))


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
    job.worker(**job.arguments, backend=backend).process(look.table("samples").take(some, list(job.columns)))
    return backend.share
