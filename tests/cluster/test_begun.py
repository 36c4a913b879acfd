"""What manifests say of how a table came to be, and what follows from it."""

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster.stage import RunContext, StageFolder, StageSummary
from cluster.stage_files import BEGUN
from fgvr.config import build
from fgvr.config.base import Workers
from fgvr.schemas import ANSWERS
from fgvr.tables import Table
from pipelines.run_tables import Look
from tests.untracked import NoTracking

OLD = {"fgvr": "1", "torch": "2.8"}
NEW = {"fgvr": "1", "torch": "2.9"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is installed; change it, and it is another environment."""
    facts = dict(OLD)
    monkeypatch.setattr("cluster.stage.environment", lambda device: {**facts, "device": device})
    return facts


def context(folder: Path, **config: Any) -> RunContext:
    return RunContext(build({"run": {"max_error_share": 1}, **config}), str(folder), NoTracking())


def rows(*bad: int, reason: str = "too_many_bytes") -> pa.Table:
    made = [
        {"image_id": n, "error": {"reason": reason, "detail": "d"} if n in bad else None, "raw": "x"} for n in range(9)
    ]
    return pa.Table.from_pylist(made, schema=ANSWERS)


def of(table: pa.Table, asked: list[bool] | None = None) -> Any:
    """A row-parallel stage that gives these rows, and writes down whether failed ones were asked for again."""

    def compute(folder: StageFolder) -> StageSummary:
        if asked is not None:
            asked.append(folder.retry_failed)
        summary = folder.write_table(table)
        summary.by_rows = True
        return summary

    return compute


def stage(context: RunContext, name: str, compute: Any, workers: Workers | None = None, inputs: Any = ()) -> Table:
    return context.stage(name, decides={}, inputs=inputs, compute=compute, workers=workers or Workers())


def test_a_manifest_says_what_made_the_table(tmp_path: Path, installed: dict[str, str]) -> None:
    stage(context(tmp_path), "answers", of(rows()), Workers(num_gpus=0.5))
    (manifest,) = tmp_path.glob("tables/answers/*/manifest.json")
    assert json.loads(manifest.read_text())["made_with"] == [{**OLD, "device": "cuda"}]
    assert not (manifest.parent / BEGUN).exists()


def test_tables_of_different_versions_are_said_once_and_kept(
    tmp_path: Path, installed: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    first = context(tmp_path)
    before = [stage(first, name, of(rows())) for name in ("answers", "aspects")]
    assert "mixes" not in caplog.text
    installed.update(NEW)
    same = context(tmp_path)
    assert [stage(same, name, of(rows())) for name in ("answers", "aspects")] == before
    assert "mixes" not in caplog.text  # nothing is computed
    for name in ("labels", "near"):
        stage(same, name, of(rows()))
    (said,) = [message for message in caplog.messages if "mixes" in message]
    assert "torch 2.8 (answers, aspects) and 2.9 (labels)" in said


def test_a_table_that_goes_on_with_other_versions_has_both_and_says_so(
    tmp_path: Path, installed: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    def dies(folder: StageFolder) -> StageSummary:
        raise OSError("the machine went away")

    with pytest.raises(OSError, match="went away"):
        stage(context(tmp_path), "answers", dies)
    assert "begun with" not in caplog.text
    installed.update(NEW)
    done = stage(context(tmp_path), "answers", of(rows()), Workers(num_gpus=1))
    assert "answers: begun with other versions (torch 2.8 → 2.9, device cpu → cuda)" in caplog.text
    assert done.made_with == [{**OLD, "device": "cpu"}, {**NEW, "device": "cuda"}]
    assert Table.load(done.uri) == done


def limited(folder: Path, **limits: int) -> RunContext:
    return context(folder, ingest={"limits": limits})


def test_higher_limits_try_what_failed_by_them_again_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked: list[bool] = []
    first = stage(limited(tmp_path, max_bytes=10), "answers", of(rows(3), asked))
    assert (first.failed, first.limits["max_bytes"]) == (1, 10)
    # The same, a lower one, and a higher one of another kind.
    for other in ({"max_bytes": 10}, {"max_bytes": 5}, {"max_bytes": 10, "max_pixels": 10**9}):
        assert stage(limited(tmp_path, **other), "answers", of(rows(3), asked)) == first
    assert asked == [False]
    assert Look(limited(tmp_path, max_bytes=20).config, str(tmp_path)).retries(first)  # so a plan counts them
    mended = stage(limited(tmp_path, max_bytes=20), "answers", of(rows(), asked))
    assert asked == [False, True]
    assert (mended.uri, mended.failed, mended.revision) == (first.uri, 0, 1)
    assert "ingest.limits allow more than before" in caplog.text
    assert stage(limited(tmp_path, max_bytes=30), "answers", of(rows(), asked)) == mended
    assert asked == [False, True]


def test_rows_that_still_fail_are_tried_once_a_limit(tmp_path: Path) -> None:
    asked: list[bool] = []
    for max_bytes in (10, 20, 20, 20):
        stage(limited(tmp_path, max_bytes=max_bytes), "answers", of(rows(3), asked))
    assert asked == [False, True]


def test_a_limit_that_nothing_met_changes_nothing(tmp_path: Path) -> None:
    asked: list[bool] = []
    for max_bytes in (10, 20):
        stage(limited(tmp_path, max_bytes=max_bytes), "answers", of(rows(3, reason="refused"), asked))
    assert asked == [False]


def test_a_table_begun_under_a_lower_limit_remembers_it(tmp_path: Path) -> None:
    def dies(folder: StageFolder) -> StageSummary:
        raise OSError("the machine went away")

    with pytest.raises(OSError, match="went away"):
        stage(limited(tmp_path, max_bytes=10), "answers", dies)
    asked: list[bool] = []
    # Parts of the first session stay as they are, so its limit counts.
    assert stage(limited(tmp_path, max_bytes=20), "answers", of(rows(3), asked)).limits["max_bytes"] == 10
    stage(limited(tmp_path, max_bytes=20), "answers", of(rows(), asked))
    assert asked == [False, True]


def test_a_retry_for_a_limit_that_was_cut_short_is_gone_on_with(tmp_path: Path) -> None:
    stage(limited(tmp_path, max_bytes=10), "answers", of(rows(3)))

    def dies(folder: StageFolder) -> StageSummary:
        raise OSError("the machine went away")

    with pytest.raises(OSError, match="went away"):
        stage(limited(tmp_path, max_bytes=20), "answers", dies)
    asked: list[bool] = []
    assert stage(limited(tmp_path, max_bytes=20), "answers", of(rows(), asked)).revision == 1
    assert asked == [True]


def test_what_a_session_left_that_was_killed_behind_its_commit_is_no_other_s_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("cluster.stage._clear_left", lambda _: None)
        first = stage(limited(tmp_path, max_bytes=10), "answers", of(rows(3)))
    assert Path(first.uri, BEGUN).exists()
    asked: list[bool] = []
    for _ in range(3):
        again = stage(limited(tmp_path, max_bytes=20), "answers", of(rows(3), asked))
    assert (asked, again.limits["max_bytes"]) == ([True], 20)


def test_a_training_is_not_begun_anew_for_a_limit(tmp_path: Path) -> None:
    def trains(folder: StageFolder) -> StageSummary:
        return folder.write_table(rows(3))

    first = stage(limited(tmp_path, max_bytes=10), "makd", trains)
    assert stage(limited(tmp_path, max_bytes=20), "makd", trains) == first
