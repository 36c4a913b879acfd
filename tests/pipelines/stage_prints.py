"""Fingerprints of all stages of a run without computing anything: tables are made up, stages only say what decides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.stage import RunContext, fingerprint_of
from fgvr.config import Config
from fgvr.tables import Table
from pipelines import evaluate
from pipelines.flow import Flow
from tests.untracked import NoTracking

ROWS = 8
CLASSES = ("Gull", "Tern")
CODED = {"image_id": list(range(ROWS)), "error": pa.nulls(ROWS, pa.struct([("reason", pa.string())]))}


@dataclass(frozen=True)
class MadeUp(Table):
    """A finished table in memory; beside it lies what others read."""

    content: pa.Table = field(default_factory=lambda: pa.table({}))

    def read(self, columns: list[str] | None = None) -> pa.Table:
        return self.content if columns is None else self.content.select(columns)

    def batches(self, columns: list[str] | None = None) -> Any:
        yield self.read(columns)

    def take(self, ids: Any, columns: list[str] | None = None) -> pa.Table:
        return self.read(columns).take(pa.array(np.asarray(ids)))

    def find(self, ids: Any, columns: list[str] | None = None) -> pa.Table:
        return self.read(columns).filter(pc.is_in(self.content["image_id"], pa.array(np.asarray(ids))))


@dataclass
class Asking(RunContext):
    """Writes down what decides each stage, and gives a table for it."""

    prints: dict[str, str] = field(default_factory=dict)
    deciding: dict[str, Any] = field(default_factory=dict)

    def stage(self, name: str, *, decides: Any, inputs: Any, compute: Any, workers: Any = None) -> Table:
        # Without the inputs: of a change each stage that it concerns itself is told.
        self.prints[name], self.deciding[name] = fingerprint_of(name, decides, []), decides
        table = made_up(self.folder, name)
        self.tables.append(table)
        return table


def made_up(folder: str, name: str) -> MadeUp:
    place = Path(folder, "tables", name)
    if not place.is_dir():
        place.mkdir(parents=True)
        place.joinpath("label_space.json").write_text(json.dumps({"labels": CLASSES, "counts": [4, 4]}))
        for file in evaluate.FILES:
            place.joinpath(file).write_text("{}")
    columns: dict[str, Any] = {
        **CODED,
        "split": ["train"] * 6 + ["test"] * 2,
        "class_id": [n % 2 for n in range(ROWS)],
        "class_name": [CLASSES[n % 2] for n in range(ROWS)],
        "label": [CLASSES[n % 2] for n in range(ROWS)],
        "label_id": [n % 2 for n in range(ROWS)],
        "metadata": ["{}"] * ROWS,
        "uri": [f"/photos/{n}.jpg" for n in range(ROWS)],
        "text": [f"Is it {n}?" for n in range(ROWS)],
        "photo_id": list(range(ROWS)),
        "category": ["bird"] * ROWS,
        "unit": ["species"] * ROWS,
        "expert": ["ornithologist"] * ROWS,
    }
    extra: dict[str, Any] = {
        "left_out": {},
        "splits": {"train": 6, "test": 2},
        "dim": 4,
        "classes": 2,
        "questions": 0,
        "metrics": {"shared": 0},
    }
    return MadeUp(str(place), name, "f", ROWS, 0, 1, ROWS, 0.0, extra=extra, content=pa.table(columns))


def prints_of(config: Config, folder: Path, tables: tuple[str, ...]) -> Mapping[str, str]:
    """Stage → its fingerprint, of all stages that these tables of `pipelines.flow.Flow` need.

    Args:
        config: of the run.
        folder: of the run; made-up tables lie there.
        tables: properties of Flow.
    """
    return asking(config, folder, tables).prints


def asking(config: Config, folder: Path, tables: tuple[str, ...]) -> Asking:
    """The context that was asked."""
    context = Asking(config, str(folder), NoTracking())
    flow = Flow(context)
    for name in tables:
        getattr(flow, name)
    return context
