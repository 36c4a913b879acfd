"""Fingerprints of all stages of a run without computing anything: tables are made up, stages only say what decides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.stage import RunContext, fingerprint_of
from fgvr import tables
from fgvr.config import Config
from fgvr.tables import Table
from pipelines import evaluate
from pipelines.stage import Run
from tests.untracked import NoTracking

ROWS = 8
CLASSES = ("Gull", "Tern")
CODED = {"image_id": list(range(ROWS)), "error": pa.nulls(ROWS, pa.struct([("reason", pa.string())]))}


@dataclass
class Asking(RunContext):
    """Writes down what decides each stage, and gives a table for it."""

    prints: dict[str, str] = field(default_factory=dict)
    deciding: dict[str, Any] = field(default_factory=dict)

    def stage(self, name: str, *, decides: Any, inputs: Any, **_: Any) -> Table:
        # Without the inputs: of a change each stage that it concerns itself is told.
        self.prints[name], self.deciding[name] = fingerprint_of(name, decides, []), decides
        table = made_up(self.folder, name)
        self.tables.append(table)
        return table


def made_up(folder: str, name: str) -> Table:
    """A finished table, and beside it what others read."""
    place = Path(folder, "tables", name)
    columns: dict[str, Any] = {
        **CODED,
        "split": ["train"] * 6 + ["test"] * 2,
        "class_id": pa.array([n % 2 for n in range(ROWS)], pa.int32()),
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
    if not place.is_dir():
        tables.write_part(str(place), 0, pa.table(columns))
        place.joinpath("label_space.json").write_text(json.dumps({"labels": CLASSES, "counts": [4, 4]}))
        for file in evaluate.FILES:
            place.joinpath(file).write_text("{}")
    return Table(str(place), name, "f", ROWS, 0, 1, ROWS, 0.0, extra=extra)


def prints_of(config: Config, folder: Path, wanted: tuple[str, ...]) -> Mapping[str, str]:
    """Stage → its fingerprint, of all stages that these tables need.

    Args:
        config: of the run.
        folder: of the run; made-up tables lie there.
        wanted: tables.
    """
    return asking(config, folder, wanted).prints


def asking(config: Config, folder: Path, wanted: tuple[str, ...]) -> Asking:
    """The context that was asked."""
    context = Asking(config, str(folder), NoTracking())
    run = Run(context)
    for name in wanted:
        run.table(name)
    return context
