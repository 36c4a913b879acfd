"""A run that is killed in `label`, and then goes on."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fgvr import tables
from tests.e2e import runs

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

PARTS = 9  # 36 species with two images each in parts of 8


def arguments(folder: Path) -> list[str]:
    drawings = str(folder.parent / "drawings")  # the same for both runs: paths are part of the samples table
    return runs.flags(str(folder), label__workers__rows_per_part="8", ingest__source__draw_to=drawings)


def answers_folder(folder: Path) -> Path | None:
    """The folder in which the stage that asks the model writes its parts."""
    found = list((folder / "tiny" / "tables" / "answers").glob("*"))
    return found[0] if found else None


def parts_in(folder: Path) -> dict[str, int]:
    place = answers_folder(folder)
    return {} if place is None else {file.name: file.stat().st_mtime_ns for file in place.glob("part-*.parquet")}


def kill_in_the_middle(folder: Path) -> None:
    """Start `label` and SIGKILL its driver as soon as two parts are there."""
    command = [sys.executable, str(runs.ROOT / "pipelines" / "label.py"), *arguments(folder)]
    with (folder.parent / "killed.log").open("wb") as log:
        driver = subprocess.Popen(command, env=runs.environment(), cwd=runs.ROOT, stdout=log, stderr=log)
    end = time.monotonic() + 900
    while len(parts_in(folder)) < 2 and driver.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.wait(timeout=60)
    _wait_until_gone(folder)


def _wait_until_gone(folder: Path) -> None:
    """Ray's workers end themselves when their driver is gone; the part that one is writing may still appear."""
    seen: dict[str, int] = {}
    quiet = 0
    while quiet < 10:
        now = parts_in(folder)
        quiet = quiet + 1 if now == seen else 0
        seen = now
        time.sleep(0.5)


def test_a_killed_run_finishes_only_what_is_missing_with_the_same_rows(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    runs.run("label", arguments(whole))
    assert len(parts_in(whole)) == PARTS

    kill_in_the_middle(killed)
    before = parts_in(killed)
    assert 2 <= len(before) < PARTS, (tmp_path / "killed.log").read_text()[-3000:]
    folder = answers_folder(killed)
    assert folder is not None
    assert not (folder / tables.MANIFEST).exists()

    runs.run("label", arguments(killed))
    after = parts_in(killed)
    assert len(after) == PARTS
    assert {name: after[name] for name in before} == before  # not one of the finished parts was written again

    assert runs.rows(str(killed), "answers").equals(runs.rows(str(whole), "answers"))
    assert runs.rows(str(killed), "labels").equals(runs.rows(str(whole), "labels"))
    assert json.loads(Path(runs.table(str(killed), "labels").path("label_space.json")).read_bytes()) == json.loads(
        Path(runs.table(str(whole), "labels").path("label_space.json")).read_bytes()
    )

    # And a third time nothing is left to do.
    log = runs.run("label", arguments(killed))
    assert "answers: done before" in log
    assert parts_in(killed) == after
