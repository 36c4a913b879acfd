"""A run as notebooks read it: a kept one, with and without a record of its last session."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from PIL import Image

import fgvr
from cluster.run_record import FILE
from fgvr.opened_run import RECORD, NotInRun
from tests.golden.test_kept_runs import unpacked


def rows_of(run: Path, table: str) -> list[dict[str, Any]]:
    parts = sorted(run.glob(f"tables/{table}/*/part-*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked("run_finished.tar.gz", tmp_path_factory.mktemp("kept"))


def test_predictions_have_the_photo_beside_the_name(run: Path) -> None:
    uris = {row["image_id"]: row["uri"] for row in rows_of(run, "samples")}
    expected = [(uris[row["image_id"]], row["label"]) for row in rows_of(run, "predictions")]
    found = fgvr.open_run(run).predictions()
    assert found.columns == ["uri", "label", "score", "abstained", "error"]
    assert list(zip(found["uri"], found["label"], strict=True)) == expected
    assert found["error"].to_list() == [(row["error"] or {}).get("reason") for row in rows_of(run, "predictions")]
    assert found["error"].dtype == pl.String  # a struct could not be written as CSV


def test_names_are_counted(run: Path) -> None:
    counted = Counter(row["label"] for row in rows_of(run, "labels") if row["label"] is not None)
    names = fgvr.open_run(str(run)).names()
    assert {row["name"]: row["photos"] for row in names.to_dicts() if row["photos"]} == dict(counted)
    assert names["photos"].to_list() == sorted(names["photos"], reverse=True)


def test_a_model_gives_probabilities(run: Path) -> None:
    model = fgvr.open_run(run).model("near")
    scores = model.scores([Image.new("RGB", (64, 64), (200, 30, 30))])
    assert scores.shape == (1, len(model.labels))
    assert scores.sum() == pytest.approx(1, abs=1e-4)


def test_what_is_not_there_is_said(run: Path, tmp_path: Path) -> None:
    opened = fgvr.open_run(run)
    with pytest.raises(NotInRun, match=r"no finished table pool; it has: .*labels"):
        opened.arrow("pool")
    with pytest.raises(NotInRun, match=r"table labels holds no model; those that do here: near, base, makd"):
        opened.model("labels")
    with pytest.raises(NotInRun, match="there is no finished table in"):
        fgvr.open_run(tmp_path)
    with pytest.raises(NotInRun, match="there is no finished table in"):
        fgvr.open_run(tmp_path / "nowhere")


def test_of_several_settings_the_last_session_decides(tmp_path: Path) -> None:
    assert RECORD == FILE
    run = unpacked("run_finished.tar.gz", tmp_path)
    (labels,) = run.glob("tables/labels/*")
    other = labels.with_name("0123456789abcdef")
    shutil.copytree(labels, other)
    manifest = other / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "fingerprint": other.name}))
    with pytest.raises(NotInRun, match=f"several settings .*{labels.name}"):
        fgvr.open_run(run).names()
    for asked in (labels, other):
        (run / FILE).write_text(json.dumps({"stages": [["labels", asked.name]]}))
        assert fgvr.open_run(run).table("labels").fingerprint == asked.name
    (other / "manifest.json").unlink()  # the last session has not finished it: an older one is not what was asked for
    with pytest.raises(NotInRun, match="no finished table labels"):
        fgvr.open_run(run).table("labels")
    (run / FILE).write_text("not JSON")
    assert fgvr.open_run(run).table("labels").fingerprint == labels.name
