"""A larger choice of photos takes over the rows that are there, and computes only the others."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.kept_rows import FILE, Known, known_rows, take_over
from cluster.stage import RunContext
from fgvr import schemas, tables
from fgvr.config import build
from fgvr.mllm.label_worker import LabelWorker
from fgvr.tables import Table
from pipelines.run_tables import Look, Run
from tests.untracked import NoTracking
from tests.without_ray import parts_without_ray

ROWS = 5


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    parts_without_ray(monkeypatch)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ids of the images about which the model is asked, in order."""
    ids: list[int] = []
    process = LabelWorker.process

    def noted(self: LabelWorker, rows: pa.Table) -> pa.Table:
        ids.extend(rows["image_id"].to_pylist())
        return process(self, rows)

    monkeypatch.setattr(LabelWorker, "process", noted)
    return ids


def tree(count: int | None, **more: Any) -> dict[str, Any]:
    return {
        "ingest": {"source": {"kind": "field_guide", "train_per_class": 1, "test_per_class": 1}},
        "label": {"images": {"max_images": count, "per_class": None}, "workers": {"rows_per_part": ROWS}, **more},
        "mllm": {"kind": "simulated", "names": 5, "request_seconds": 0},
    }


def run_of(place: Path, config: dict[str, Any]) -> Run:
    return Run(RunContext(build(config), str(place), NoTracking()))


def without_parts(table: Table) -> list[dict[str, Any]]:
    return table.read().to_pylist()


def test_a_larger_sample_asks_only_about_the_new_photos(
    tmp_path: Path, asked: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    small = run_of(tmp_path, tree(9)).table("answers")
    first = list(asked)
    asked.clear()
    with caplog.at_level(logging.INFO):
        large = run_of(tmp_path, tree(17)).table("answers")
    ids = large.read(["image_id"])["image_id"].to_pylist()
    assert len(ids) == 17
    assert set(first) < set(ids)
    assert sorted(asked) == sorted(set(ids) - set(first))
    assert "answers: 9 rows are there from before and are taken over" in caplog.text
    assert large.failed == 0
    # The rows are those that a run has that asks about all at once.
    alone = run_of(tmp_path / "alone", tree(17)).table("answers")
    assert without_parts(large) == without_parts(alone)
    assert small.rows == 9
    asked.clear()
    again = run_of(tmp_path, tree(6)).table("answers")
    assert again.rows == 6
    assert asked == []


def test_another_prompt_or_model_takes_nothing_over(tmp_path: Path, asked: list[int]) -> None:
    run_of(tmp_path, tree(9)).table("answers")
    asked.clear()
    run_of(tmp_path, tree(9, prompt="Which bird?")).table("answers")
    assert len(asked) == 9
    asked.clear()
    run_of(tmp_path, {**tree(12), "mllm": {"kind": "simulated", "names": 7, "request_seconds": 0}}).table("answers")
    assert len(asked) == 12


def test_failed_rows_are_tried_again(tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = run_of(tmp_path / "elsewhere", tree(30)).table("answers").read(["image_id"])["image_id"].to_pylist()
    process, broken = LabelWorker.process, fewer[3:20:16]

    def failing(self: LabelWorker, rows: pa.Table) -> pa.Table:
        return pa.Table.from_pylist(
            [
                {**row, "texts": None, "error": {"reason": "engine_error", "detail": "lost"}}
                if row["image_id"] in broken
                else row
                for row in process(self, rows).to_pylist()
            ],
            schema=schemas.ANSWERS,
        )

    monkeypatch.setattr(LabelWorker, "process", failing)
    everything = run_of(tmp_path, {**tree(None), "run": {"max_error_share": 0.5}}).table("answers")
    assert (everything.rows, everything.failed) == (36, 2)
    monkeypatch.setattr(LabelWorker, "process", process)
    asked.clear()
    assert run_of(tmp_path, tree(30)).table("answers").failed == 0
    assert asked == broken


def test_a_session_that_was_killed_behind_the_taking_over_goes_on(tmp_path: Path, asked: list[int]) -> None:
    small = run_of(tmp_path, tree(9)).table("answers")
    whole = run_of(tmp_path, tree(17)).table("answers")
    expected = without_parts(whole)
    manifest = Path(whole.uri, tables.MANIFEST)
    manifest.unlink()
    for file in Path(whole.uri).glob("part-*.parquet"):
        file.unlink()
    known = Known(small, 10_000)
    ids = np.array([row["image_id"] for row in expected], np.int64)
    assert take_over(known, whole.uri, ids, ROWS, schemas.ANSWERS) == 9
    look = Look(build(tree(17)), str(tmp_path))
    with pytest.raises(Exception, match="answers"):
        look.table("answers")
    assert len(look.unfinished["answers"].left) == 8  # what a plan counts
    asked.clear()
    assert without_parts(run_of(tmp_path, tree(17)).table("answers")) == expected
    assert len(asked) == 8


def test_a_plan_counts_only_what_is_not_there(tmp_path: Path) -> None:
    run_of(tmp_path, tree(9)).table("answers")
    look = Look(build(tree(17)), str(tmp_path))
    with pytest.raises(Exception, match="answers"):
        look.table("answers")
    assert len(look.unfinished["answers"].left) == 8


def test_rows_of_other_photos_and_damaged_statements_are_not_taken(tmp_path: Path) -> None:
    run = run_of(tmp_path, tree(9))
    answers, samples = run.table("answers"), run.table("samples")
    facts = json.loads(Path(answers.uri, FILE).read_bytes())
    key = facts["rows"]
    assert known_rows(str(tmp_path), "answers", "new", key, samples) is not None
    assert known_rows(str(tmp_path), "answers", answers.fingerprint, key, samples) is None
    assert known_rows(str(tmp_path), "answers", "new", "other", samples) is None
    assert known_rows(str(tmp_path), "nothing", "new", key, samples) is None
    Path(answers.uri, FILE).write_text(json.dumps({"rows": key, "samples": "others"}))
    assert known_rows(str(tmp_path), "answers", "new", key, samples) is None
    Path(answers.uri, FILE).write_text("{")
    assert known_rows(str(tmp_path), "answers", "new", key, samples) is None
