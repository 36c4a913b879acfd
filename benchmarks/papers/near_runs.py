"""Computes rows of the tables through the pipeline's own stages; finished tables in the run folder are reused."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.papers.data_sets import OwnModel
from benchmarks.papers.near_rows import Row
from cluster.run import open_run
from cluster.stage import RunContext
from fgvr.config import Config, build
from fgvr.config.data import FieldGuideSource
from fgvr.config.tree import merge
from fgvr.errors import user_error_in
from fgvr.evaluation.images import choose_images, names_of, readable
from fgvr.metrics.classification import top1_hits
from fgvr.metrics.scores import METRICS, score
from fgvr.metrics.semantic import SentenceBert
from fgvr.report.costs import method_costs
from fgvr.report.results import MethodCost, stage_results
from fgvr.tables import Table
from pipelines.billing import billing, paid_by
from pipelines.evaluate import table_of
from pipelines.run_tables import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """A row at one seed.

    Attributes:
        values: metric → percent: those of `fgvr.metrics.scores`, and `balanced`; empty where the row could not be
            computed.
        cost: hours and US$, from what the tables that went into it have recorded.
        reason: why there are no values.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    cost: MethodCost | None = None
    reason: str = ""


def or_reason(label: str, compute: Callable[[], Measured]) -> Measured:
    """The result of `compute`, or the error as the reason, if it is one that the user can fix."""
    try:
        return compute()
    except Exception as error:  # Ray wraps what its workers raise
        known = user_error_in(error)
        if known is None:
            raise
        log.warning("%s: %s", label, known)
        return Measured(reason=" ".join(str(known).split()))


class DataSetRuns:
    """The run folder of one data set, in which all rows and seeds share their common tables.

    Args:
        tree: the config of the table, as read from a preset or file.
        context: the run that is open.
        own: for some methods or rows the model that they ask instead of the config's.
    """

    def __init__(self, tree: dict[str, Any], context: RunContext, own: Mapping[str, OwnModel] | None = None) -> None:
        self._tree, self._context, self._own = tree, context, own or {}
        self._encoder: SentenceBert | None = None

    def measure(self, row: Row, seed: int, changes: Mapping[str, Any] | None = None) -> Measured:
        """A row at a seed; `changes` are the table's own (shots), laid below those of the row.

        An error that the user can fix, also a method unknown to this version, becomes the row's reason.
        """
        return or_reason(row.label, lambda: self._measure(build(self._layers(row, seed, changes or {})), row))

    def table(self, name: str, changes: Mapping[str, Any] | None = None) -> Table:
        """A table of the pipeline, computed if it is missing, with `changes` laid over the config."""
        return self._flow(build(merge(self._tree, dict(changes or {})))).table(name)

    def _flow(self, config: Config) -> Run:
        return Run(RunContext(config, self._context.folder, self._context.tracker))

    def _layers(self, row: Row, seed: int, changes: Mapping[str, Any]) -> dict[str, Any]:
        seeds: dict[str, Any] = {part: {"seed": seed} for part in ("candidates", "near", "makd")}
        seeds["label"] = {"images": {"seed": seed}}
        if merge(self._tree, row.changes).get("label", {}).get("temperature"):
            seeds["label"]["seed"] = seed  # without a temperature every seed gives the same answers: asked once
        if isinstance(build(self._tree).ingest.source, FieldGuideSource):
            seeds["ingest"] = {"source": {"seed": seed}}
        tree = self._tree
        own = self._own.get(row.asks or row.method)
        asked = own.tree() if own is not None else {}
        for layer in (seeds, dict(changes), asked, row.changes, {"evaluate": {"methods": [row.method]}}):
            tree = merge(tree, layer)
        return tree

    def _measure(self, config: Config, row: Row) -> Measured:
        flow = self._flow(config)
        evaluate = config.evaluate
        labelled = readable(flow.table("labels").read(["image_id", "label_id", "error"]))["image_id"].to_numpy()
        columns = ["image_id", "split", "class_name"]
        images = choose_images(
            flow.table("samples").batches(columns),
            labelled,
            split=evaluate.split,
            max_images=evaluate.max_images,
            seed=evaluate.seed,
        )
        true = flow.table("samples").take(images.ids, ["class_name"])["class_name"].to_pylist()
        known = [place for place, name in enumerate(true) if name]
        ids = images.ids[np.array(known, np.int64)]
        table = table_of(flow, config.evaluate.methods[0])
        predictions = flow.table(table)
        named, true = names_of(predictions.find(ids), ids), [true[place] for place in known]
        scores = score(
            named,
            true,
            self._sentences(config),
            hyphen_to_space=evaluate.hyphen_to_space,
            resamples=0,
        )
        values = {name: float(getattr(scores, name)) for name in METRICS} | {"balanced": balanced(named, true)}
        paid = {row.method: paid_by(flow, config.evaluate.methods[0], table)}
        costs = method_costs(paid, stage_results(flow.context.tables), billing(config))
        return Measured(values, costs.methods[row.method])

    def _sentences(self, config: Config) -> SentenceBert:
        if self._encoder is None:
            self._encoder = SentenceBert(config.evaluate.sentence_model)
        return self._encoder


def balanced(predicted: Sequence[str], true: Sequence[str]) -> float:
    """Balanced accuracy in percent: top-1 accuracy of each true name's images, averaged over the true names."""
    _, classes = np.unique(np.array(true, dtype=object), return_inverse=True)
    hits = np.bincount(classes, weights=top1_hits(predicted, true))
    return float(100 * np.mean(hits / np.bincount(classes)))


@contextmanager
def open_data_set(
    tree: dict[str, Any], name: str, folder: str, own: Mapping[str, OwnModel] | None = None
) -> Iterator[DataSetRuns]:
    """Open the run `name` in `folder`; the Ray session that is up in this process is used, or one is started.

    Args:
        tree: the config.
        name: of the run.
        folder: of all runs.
        own: for some methods or rows the model that they ask instead of the config's.
    """
    tree = merge(tree, {"run": {"name": name, "folder": folder}, "tracking": {"log_models": False}})
    with open_run(build(tree)) as context:
        yield DataSetRuns(tree, context, own)
