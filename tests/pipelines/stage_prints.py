"""Fingerprints of all stages of a run without computing anything: tables are made up, stages only say what decides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster.fingerprint import fingerprint_of
from cluster.stage import RunContext
from fgvr import tables
from fgvr.config import Config
from fgvr.tables import Table
from pipelines import drift, drift_reference, evaluate
from pipelines.run_tables import Run
from tests.untracked import NoTracking

ROWS = 8
LABELLED = 6
"""The images of `train`: those of `test` have not been named when methods are compared."""
CLASSES = ("Gull", "Tern")
CODED = {"image_id": list(range(ROWS)), "error": pa.nulls(ROWS, pa.struct([("reason", pa.string())]))}


@dataclass
class Asking(RunContext):
    """Writes down what decides each stage, and gives a table for it."""

    prints: dict[str, str] = field(default_factory=dict)
    deciding: dict[str, Any] = field(default_factory=dict)
    reading: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def stage(self, name: str, *, decides: Any, inputs: Any, **_: Any) -> Table:
        # Without the inputs: of a change each stage that it concerns itself is told.
        self.prints[name], self.deciding[name] = fingerprint_of(name, decides, []), decides
        self.reading[name] = tuple(table.name for table in inputs)
        table = made_up(self.folder, name)
        self.tables.append(table)
        return table


class Finding(Asking):
    """Gives the finished table of each stage; FileNotFoundError where the folder has none of today's fingerprint."""

    def stage(self, name: str, *, decides: Any, inputs: Any, versions: Any = None, **_: Any) -> Table:
        self.prints[name] = fingerprint_of(name, decides, inputs, versions)
        table = Table.load(f"{self.folder}/tables/{name}/{self.prints[name]}")
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
        "held_out": [n > 2 for n in range(ROWS)],
        "label": [CLASSES[n % 2] for n in range(ROWS)],
        "label_id": [n % 2 for n in range(ROWS)],
        "metadata": ["{}"] * ROWS,
        "uri": [f"/photos/{n}.jpg" for n in range(ROWS)],
        "text": [f"Is it {n}?" for n in range(ROWS)],
        "photo_id": list(range(ROWS)),
        "name": [CLASSES[n % 2] for n in range(ROWS)],
        "kinds": [["seabird"]] * ROWS,
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
    rows = LABELLED if name == "labels" else ROWS
    if not place.is_dir():
        tables.write_part(str(place), 0, pa.table(columns).slice(0, rows))
        place.joinpath("label_space.json").write_text(json.dumps({"labels": CLASSES, "counts": [4, 4]}))
        for file in (*evaluate.FILES, drift_reference.REFERENCE_FILE, drift.PHOTOS_FILE):
            place.joinpath(file).write_text("{}")
    return Table(str(place), name, "f", rows, 0, 1, rows, 0.0, extra=extra)


def prints_of(config: Config, folder: Path, wanted: tuple[str, ...]) -> Mapping[str, str]:
    """Stage → its fingerprint, of all stages that these tables need.

    Args:
        config: of the run.
        folder: of the run; made-up tables lie there.
        wanted: tables.
    """
    return asking(config, folder, wanted).prints


def asking(config: Config, folder: Path, wanted: tuple[str, ...], kind: type[Asking] = Asking) -> Asking:
    """The context that was asked."""
    context = kind(config, str(folder), NoTracking())
    run = Run(context)
    for name in wanted:
        run.table(name)
    return context


def made_light(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stages look at before they say what decides them, and what costs seconds or a worker, is made up as well."""
    from fgvr.detection.model import PretrainedWeights

    monkeypatch.setattr("pipelines.detect._annotated", _annotated)
    monkeypatch.setattr("fgvr.detection.model.pretrained_weights", lambda name: PretrainedWeights(name, "c"))
    monkeypatch.setattr("pipelines.neighbours.plan_search", _planned)
    monkeypatch.setattr("pipelines.compare.Comparison.made", lambda *_: None)  # its page
    monkeypatch.setattr("pipelines.infer.Predictions.made", lambda *_: None)  # its files beside the report


def _annotated(run: Any, split: str) -> tuple[Any, Any]:
    rows = run.table("samples").read()
    return type("Annotated", (), {"categories": ()}), rows.filter([each == split for each in rows["split"].to_pylist()])


def _planned(run: Any, name: str, size: Any) -> Any:
    search = run.config.neighbours
    facts = {"method": "ivf" if search.method == "ivf" else "exact", "lists": 7, "shards": 1, "tasks": False}
    return type("Planned", (), facts)
