"""What a stage tells of itself, at intervals and at its end."""

import time
from pathlib import Path

import pyarrow as pa
import pytest

from cluster import stage_progress
from cluster.stage import RunContext, StageFolder, StageSummary
from cluster.stage_progress import StageProgress, told
from fgvr.config import Config
from tests.untracked import NoTracking


def test_parts_of_this_session_and_those_before_it() -> None:
    progress = StageProgress("label", lambda: 7.0)
    before = {"prompt_tokens": 30}
    progress.begin(100, rows=20, failures={"corrupt": 1}, tokens=before, parts=2)
    progress.part(40, {"corrupt": 2, "refused": 1}, {"prompt_tokens": 60})
    assert progress.numbers() == {
        "rows_wanted": 100,
        "rows": 60,
        "parts_waiting": 1,
        "failed_rows": 4,
        "failed.corrupt": 3,
        "failed.refused": 1,
        "prompt_tokens": 90,
        "seconds": 7.0,
    }


def test_it_is_told_at_intervals_while_the_stage_runs() -> None:
    said: list[dict[str, float]] = []
    with told(StageProgress("label", lambda: 1.0), said.append, every=0.05) as progress:
        assert stage_progress.current() is progress
        progress.begin(10, rows=0, failures={}, tokens={}, parts=5)
        time.sleep(0.4)
    assert stage_progress.current() is None
    assert 2 <= len(said) <= 9
    assert said[-1]["rows_wanted"] == 10
    count = len(said)
    time.sleep(0.15)
    assert len(said) == count


def test_one_that_hangs_does_not_hold_up_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.stage_progress.LAST_SECONDS", 0.2)
    start = time.monotonic()
    with told(StageProgress("label", lambda: 1.0), lambda _: time.sleep(30), every=0.01):
        time.sleep(0.1)
    assert time.monotonic() - start < 20


def test_a_stage_finds_its_own_progress_and_is_counted_at_its_end(tmp_path: Path) -> None:
    found: list[StageProgress] = []

    def compute(folder: StageFolder) -> StageSummary:
        progress = stage_progress.current()
        assert progress is not None
        found.append(progress)
        return folder.write_table(pa.table({"image_id": [0, 1, 2]}))

    RunContext(Config(), str(tmp_path), NoTracking()).stage("label", decides={}, inputs=[], compute=compute)
    assert found[0].name == "label"
    assert found[0].numbers()["rows"] == 3
    assert stage_progress.current() is None


def test_alarms_of_drift_are_among_the_numbers() -> None:
    progress = StageProgress("drift", lambda: 1.0)
    assert "drift_alarms" not in progress.numbers()
    progress.alarmed(3)
    progress.finished(4, {}, {})
    assert progress.numbers()["drift_alarms"] == 3
