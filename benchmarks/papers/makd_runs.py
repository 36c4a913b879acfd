"""Computes the cells of MaKD's tables through the pipeline's stages; finished tables in the run folder are reused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.papers.data_sets import OwnModel
from benchmarks.papers.makd_rows import TOP1, Cell, Gap, Line
from benchmarks.papers.near_rows import Row
from benchmarks.papers.near_runs import DataSetRuns, Measured, or_reason
from cluster.run import open_run
from cluster.stage import RunContext
from fgvr import storage
from fgvr.config import Config, ConfigError, build
from fgvr.config.data import BirdScenesSource
from fgvr.config.tree import merge
from fgvr.evaluation.images import names_of
from fgvr.metrics.classification import top1_hits
from pipelines.detect import METRICS_FILE, check_detection
from pipelines.infer import image_ids
from pipelines.run_tables import Run


class StudentRuns(DataSetRuns):
    """One data set's run folder; the seed is that of weights, order and views, and of the drawings where it draws.

    Args:
        tree: the config of the table.
        context: the run that is open.
        own: for some methods the model that they ask instead of the config's.
    """

    def __init__(self, tree: dict[str, Any], context: RunContext, own: Mapping[str, OwnModel] | None = None) -> None:
        super().__init__(tree, context, own)
        self._known: dict[tuple[str, int], Measured] = {}

    def measure_lines(self, lines: Sequence[Line], seeds: Sequence[int]) -> list[list[list[Measured]]]:
        """[line][cell][seed]. Seed by seed, since what a seed's cells share is computed once."""
        by_seed = [[[self.cell(cell, seed) for cell in line.cells] for line in lines] for seed in seeds]
        return [
            [[of_seed[row][column] for of_seed in by_seed] for column in range(len(line.cells))]
            for row, line in enumerate(lines)
        ]

    def cell(self, cell: Cell | Gap, seed: int) -> Measured:
        """The score in percent of a cell at a seed, or how far the second of two is above the first."""
        if isinstance(cell, Cell):
            key = (repr(cell), seed)
            if key not in self._known:
                self._known[key] = self._detector(cell, seed) if cell.method == "detect" else self._student(cell, seed)
            return self._known[key]
        base, ours = self.cell(cell.base, seed), self.cell(cell.ours, seed)
        if reason := base.reason or ours.reason:
            return Measured(reason=reason)
        return Measured({TOP1: ours.values[TOP1] - base.values[TOP1]})

    def _student(self, cell: Cell, seed: int) -> Measured:
        changes = dict(cell.changes)
        if cell.teacher is not None:
            if reason := self.cell(cell.teacher, seed).reason:
                return Measured(reason=f"its teacher: {reason}")
            config = build(self._layers(_row(cell.teacher), seed, {}))
            folder = Run(RunContext(config, self._context.folder, self._context.tracker)).table("base").uri
            changes = merge(changes, {"makd": {"distillation": {"teacher": folder}}})
        return self.measure(_row(Cell(cell.method, changes)), seed)

    def _detector(self, cell: Cell, seed: int) -> Measured:
        def compute() -> Measured:
            seeds: dict[str, Any] = {"detect": {"seed": seed}}
            if isinstance(build(self._tree).ingest.source, BirdScenesSource):
                seeds["ingest"] = {"source": {"seed": seed}}
            config = build(merge(merge(self._tree, seeds), dict(cell.changes)))
            flow = Run(RunContext(config, self._context.folder, self._context.tracker))
            check_detection(config)
            return Measured(json.loads(storage.read_bytes(flow.table("detections").path(METRICS_FILE))))

        return or_reason(str(cell), compute)

    def _measure(self, config: Config, row: Row) -> Measured:
        method = config.evaluate.methods[0]
        flow = Run(RunContext(config, self._context.folder, self._context.tracker))
        model = {"split": config.evaluate.split, "model": flow.table(method).path("model")}
        config = config.model_copy(update={"infer": config.infer.model_copy(update=model)})
        flow = Run(RunContext(config, self._context.folder, self._context.tracker))
        ids = image_ids(flow.table("samples"), config.evaluate.split)
        if config.evaluate.max_images is not None and config.evaluate.max_images < len(ids):
            drawn = np.random.default_rng(config.evaluate.seed)
            ids = np.sort(drawn.choice(ids, size=config.evaluate.max_images, replace=False))
        true = flow.table("samples").take(ids, ["class_name"])["class_name"].to_pylist()
        predicted = names_of(flow.table("predictions").find(ids), ids)
        known = [(name, truth) for name, truth in zip(predicted, true, strict=True) if truth]
        if not known:
            raise ConfigError(f"evaluate.split = {config.evaluate.split}: no image has a true class to compare with")
        return Measured({TOP1: 100 * float(top1_hits(*map(list, zip(*known, strict=True))).mean())})


def _row(cell: Cell) -> Row:
    return Row(f"{cell.method} {dict(cell.changes)}", cell.method, dict(cell.changes))


@contextmanager
def open_students(
    tree: dict[str, Any], name: str, folder: str, own: Mapping[str, OwnModel] | None = None
) -> Iterator[StudentRuns]:
    """As `near_runs.open_data_set`, for students."""
    tree = merge(tree, {"run": {"name": name, "folder": folder}, "tracking": {"log_models": False}})
    with open_run(build(tree)) as context:
        yield StudentRuns(tree, context, own)
