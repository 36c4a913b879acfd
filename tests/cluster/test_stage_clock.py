"""Seconds of a stage over sessions that ended in an error, by a kill, or well."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cluster.stage_files import CLOCK, StageClock, clear_left


def kept(folder: Path) -> float:
    return float(json.loads((folder / CLOCK).read_text())["seconds"])


def fail_after(seconds: float) -> None:
    time.sleep(seconds)
    raise ValueError("oops")


def test_a_session_that_failed_counts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="oops"), StageClock(str(tmp_path)):
        fail_after(0.1)
    first = kept(tmp_path)
    assert 0.1 <= first < 2
    time.sleep(0.2)  # nobody worked on it
    with StageClock(str(tmp_path)) as clock:
        assert first <= clock.seconds < first + 0.15
        time.sleep(0.1)
    assert first + 0.1 <= clock.seconds
    clear_left(str(tmp_path))  # as when the stage is finished
    assert not list(tmp_path.iterdir())


def test_a_stage_that_ends_well_at_once_writes_nothing(tmp_path: Path) -> None:
    with StageClock(str(tmp_path)):
        pass
    assert not list(tmp_path.iterdir())


def test_a_store_that_is_away_for_a_while_stops_neither_the_clock_nor_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def away(uri: str, data: bytes) -> None:
        tried.set()
        raise ConnectionError("no route")

    monkeypatch.setattr("fgvr.storage.write_bytes", away)
    with StageClock(str(tmp_path), beat=0.01):
        assert tried.wait(30)
        monkeypatch.undo()
        for _ in range(1000):
            if (tmp_path / CLOCK).exists():
                break
            time.sleep(0.01)
        assert kept(tmp_path) > 0
    monkeypatch.setattr("fgvr.storage.write_bytes", away)
    with pytest.raises(ValueError, match="oops") as stopped, StageClock(str(tmp_path)):
        fail_after(0)
    assert stopped.value.__context__ is None


def test_a_killed_session_loses_a_beat_at_most(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom cluster.stage_files import StageClock\n"
        "with StageClock(sys.argv[1], beat=0.05):\n    print('up', flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.6)
    process.kill()
    process.wait()
    assert 0.3 < kept(tmp_path) < 3
