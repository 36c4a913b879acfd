"""A finished run, reviewed, and started again by the same command: decisions arrive, what they do not touch stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fgvr.review.decisions import Decision, Kind
from fgvr.review.log import DecisionLog
from fgvr.tables import Table
from tests.e2e import runs
from tests.golden.keep_run import arguments
from tests.golden.test_kept_runs import NAMED, stages, unpacked

METHODS = {"evaluate.methods": "[mllm, zs_clip, near]"}
"""Those of whose models the archive has all files."""
UNTOUCHED = {"samples", "answers", "embeddings", "views", "aspects", "questions", "eval_mllm_answers"}
METHODS = {"evaluate.methods": "[mllm, zs_clip, near]"}
"""Those of whose models the archive has all files."""
TOUCHED = {"labels", "candidates", "near", "eval_near", "report"}


def latest(run: Path, table: str) -> Table:
    """The table that was finished last."""
    return Table.load(str(max((run / "tables" / table).iterdir(), key=lambda place: place.stat().st_mtime_ns)))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_decisions_flow_into_the_next_start_and_untouched_stages_are_found_finished(tmp_path: Path) -> None:
    run = unpacked("run_finished.tar.gz", tmp_path)
    labels, samples = latest(run, "labels"), latest(run, "samples")
    rows = labels.read(["image_id", "label"]).to_pylist()
    photo, name = rows[0]["image_id"], rows[0]["label"]
    other = next(row["label"] for row in rows if row["label"] != name)
    uri = samples.take([photo], ["uri"])["uri"][0].as_py()
    DecisionLog(run).append(
        [
            Decision(Kind.NAME, "ann", image_id=photo, uri=uri, before=name, after="Great Auk"),
            Decision(Kind.RENAME, "ann", before=other, after="Garefowl"),
        ]
    )
    log = runs.run("full", arguments(tmp_path, METHODS), runs.environment(PYTHONPATH=str(runs.ROOT)))
    found = stages(log, ": done before (")
    assert found >= UNTOUCHED
    assert not found & TOUCHED
    now = latest(run, "labels")
    after = {row["image_id"]: row["label"] for row in now.read(["image_id", "label"]).to_pylist()}
    before = {row["image_id"]: row["label"] for row in rows}
    assert after == {image: "Garefowl" if said == other else said for image, said in before.items()} | {
        photo: "Great Auk"
    }
    candidates = latest(run, "candidates").find([photo]).to_pylist()[0]
    space = json.loads(Path(now.path("label_space.json")).read_bytes())["labels"]
    assert [space[number] for number in candidates["label_ids"]] == ["Great Auk"]  # a person is certain
    assert latest(run, "near").rows == NAMED
