"""What status.py says about runs in every state, from their files alone."""

import functools
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster import ownership
from cluster.lease import Owner
from cluster.run_record import Session
from cluster.run_status import CUT_OFF, FINISHED, MOST_FOOTERS, RUNNING, STOPPED, UNKNOWN, WAITING, run_status
from cluster.stage_files import CLOCK, Plan
from fgvr import storage, tables
from fgvr.failures import Example
from fgvr.tables import SUMMARY, Table
from pipelines.status import main
from tests.cluster.leases import HandClock, dead_here, elsewhere, taken_by

NOW = 1_700_000_000.0
COMMAND = ["/venv/bin/python", "pipelines/full.py", "--config", "my birds.yaml", "--run.name", "birds"]
GONE = 2**22 + 1  # above the kernel's largest process id


def session(run: str, /, **more: Any) -> None:
    facts = {
        "command": COMMAND,
        "folder": "/home/me/my work",
        "host": "elsewhere",
        "pid": 12,
        "started": NOW - 3600,
        "beat": NOW - 10,
        "stages": [["samples", "aa"], ["answers", "bb"]],
    }
    storage.write_bytes(storage.join(run, "session.json"), json.dumps(facts | more).encode())


def finished(folder: str, name: str, fingerprint: str, rows: int, failures: dict[str, int] | None = None) -> None:
    counts = failures or {}
    uri = storage.join(folder, "tables", name, fingerprint)
    Table(uri, name, fingerprint, rows, sum(counts.values()), 1, rows, 12.5, failures=counts).commit()


def part(folder: str, number: int, rows: int, failures: dict[str, int], **more: Any) -> None:
    """A part as cluster.parts leaves it."""
    facts = {SUMMARY: json.dumps({"rows": rows, "failures": failures, "totals": {}, **more}).encode()}
    tables.write_part(folder, number, pa.table({"image_id": range(rows)}).replace_schema_metadata(facts))


def half_done(folder: str) -> None:
    """10 rows wanted in parts of 4; parts 0 and 2 (the short one) are there: 6 rows, 2 of them failed."""
    finished(folder, "samples", "aa", 10)
    finished(folder, "samples", "of-other-settings", 7)
    uri = storage.join(folder, "tables", "answers", "bb")
    Plan(rows=10, rows_per_part=4).write(uri)
    part(uri, 0, 4, {"corrupt": 1})
    part(uri, 2, 2, {"refused": 1})
    storage.write_bytes(storage.join(uri, CLOCK), b'{"seconds": 65.0}')


def test_a_run_that_works_now(tmp_path: Path) -> None:
    folder = str(tmp_path)
    half_done(folder)
    session(folder)
    status = run_status(folder, NOW)
    assert (status.state, status.silent, status.others) == (RUNNING, 10.0, 1)
    samples, answers = status.stages
    assert (samples.name, samples.state, samples.rows, samples.seconds) == ("samples", FINISHED, 10, 12.5)
    assert (answers.state, answers.rows, answers.rows_wanted, answers.seconds) == (RUNNING, 6, 10, 65.0)
    assert (answers.failed, answers.failures, answers.estimated) == (2, {"corrupt": 1, "refused": 1}, False)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({"beat": NOW - 89}, RUNNING),
        ({"beat": NOW - 91}, CUT_OFF),
        ({"host": socket.gethostname(), "pid": os.getpid()}, RUNNING),
        ({"host": socket.gethostname(), "pid": GONE}, CUT_OFF),  # its process is gone: known at once
        ({"host": socket.gethostname(), "pid": GONE, "submitted": True}, RUNNING),  # a container has its own ids
        ({"state": "stopped", "message": "no such model"}, STOPPED),
        ({"state": "finished", "beat": NOW - 10**6}, FINISHED),
    ],
)
def test_whether_anything_works_on_it(tmp_path: Path, facts: dict[str, Any], state: str) -> None:
    half_done(str(tmp_path))
    session(str(tmp_path), **facts)
    status = run_status(str(tmp_path), NOW)
    assert status.state == state
    assert status.stages[-1].state == (CUT_OFF if state == FINISHED else state)


@pytest.mark.parametrize(
    ("owner", "facts", "state"),
    [
        (Owner.here, {"beat": NOW - 10**6, "state": "stopped"}, RUNNING),  # the record is the last session's
        (dead_here, {"beat": NOW}, CUT_OFF),
        (dead_here, {"beat": NOW, "state": "stopped"}, CUT_OFF),  # a later one died before it left a record
        (elsewhere, {"beat": NOW + 10**6}, CUT_OFF),  # a clock that is ahead
    ],
)
def test_whether_a_session_lives_is_what_its_lease_says_and_no_clock(
    tmp_path: Path, owner: Callable[[], Owner], facts: dict[str, Any], state: str
) -> None:
    half_done(str(tmp_path))
    session(str(tmp_path), **facts)
    mine = taken_by(tmp_path, owner())
    assert run_status(str(tmp_path), NOW, watched=0).state == state
    mine.release()
    ended = facts.get("state", CUT_OFF)
    assert run_status(str(tmp_path), NOW, watched=0).state == ended


def test_a_session_elsewhere_that_lives_and_one_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    half_done(str(tmp_path))
    session(str(tmp_path), beat=NOW - 10**6)  # its clock is days behind
    other = taken_by(tmp_path, elsewhere())
    clock = HandClock(events={9.0: other.beat})
    look = functools.partial(ownership.look, clock=clock, pause=clock.pause)
    monkeypatch.setattr("cluster.run_status.look", look)
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path}: running; begun" in said
    assert "a heartbeat was just seen" in said
    assert main([str(tmp_path)]) == 0  # no further sign
    said = capsys.readouterr().out
    assert f"{tmp_path}: cut off; begun" in said
    assert "no heartbeat in 30 s of watching" in said
    assert "This command goes on from there:" in said
    waiting = storage.join(str(tmp_path), "owner", "waiting-b.json")
    storage.write_bytes(waiting, replace(Owner.here(), user="bob").as_json())
    status = run_status(str(tmp_path))
    assert (status.state, status.stages[-1].state) == (WAITING, WAITING)
    assert main([str(tmp_path)]) == 0
    assert f"waiting until this is certain: process {os.getpid()} on" in capsys.readouterr().out


def test_the_command_that_continues_it_takes_nothing_over(tmp_path: Path) -> None:
    half_done(str(tmp_path))
    for words in (["--run.take_over", "true"], ["--run.take_over=true"], ["--run.take_over"]):
        session(str(tmp_path), command=["python", "pipelines/full.py", *words, "--run.name", "birds"])
        command = run_status(str(tmp_path), NOW).command
        assert command is not None
        assert command.endswith("python pipelines/full.py --run.name birds")


def test_the_command_that_continues_it_can_be_pasted(tmp_path: Path) -> None:
    half_done(str(tmp_path))
    session(str(tmp_path))
    status = run_status(str(tmp_path), NOW)
    assert status.command is not None
    assert shlex.split(status.command) == ["cd", "/home/me/my work", "&&", *COMMAND]
    assert status.by_config is not None
    assert shlex.split(status.by_config)[3:] == [*COMMAND[:2], "--config", f"{tmp_path}/config.yaml"]
    # A shell takes it: here with a command that says what it was given.
    place = tmp_path / "it's here"
    place.mkdir()
    echo = [sys.executable, "-c", "import os, sys; print(os.getcwd(), sys.argv[1:])", "$HOME; `id`", "a'b"]
    session(str(tmp_path), folder=str(place), command=echo)
    command = run_status(str(tmp_path), NOW).command
    assert command is not None
    said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    assert said == f"{place} {['$HOME; `id`', chr(97) + chr(39) + 'b']}\n"


def test_by_the_resolved_config_a_sweep_keeps_its_own_options(tmp_path: Path) -> None:
    half_done(str(tmp_path))
    options = ["--stage", "near", "--run.name", "birds", "--trials=8", "--config", "my.yaml", "--near.lr=0.1"]
    session(str(tmp_path), command=["python", "tune/sweep.py", *options])
    by_config = run_status(str(tmp_path), NOW).by_config
    assert by_config is not None
    words = ["python", "tune/sweep.py", "--stage", "near", "--trials=8", "--config", f"{tmp_path}/config.yaml"]
    assert shlex.split(by_config)[3:] == words


def test_a_submitted_run_is_continued_by_submitting_it(tmp_path: Path) -> None:
    half_done(str(tmp_path))
    session(str(tmp_path), submitted=True, command=["python", "pipelines/full.py"])
    assert run_status(str(tmp_path), NOW).command == ("ray job submit --working-dir . -- python pipelines/full.py")


def test_a_training(tmp_path: Path) -> None:
    folder = str(tmp_path)
    session(folder, stages=[["near", "cc"]])
    uri = storage.join(folder, "tables", "near", "cc")
    Plan(training="training", epochs=50).write(uri)
    storage.write_bytes(storage.join(uri, "training", "progress.json"), b'{"epoch": 12, "loss": 0.25}')
    (stage,) = run_status(folder, NOW).stages
    assert (stage.state, stage.training["epoch"], stage.epochs, stage.rows_wanted) == (RUNNING, 12, 50, None)


def test_a_run_without_a_record_and_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(str(tmp_path), "samples", "aa", 10)
    (tmp_path / "tables" / "answers" / "bb").mkdir(parents=True)
    status = run_status(str(tmp_path))
    assert (status.state, status.command) == (UNKNOWN, None)
    assert [(stage.name, stage.state) for stage in status.stages] == [("answers", CUT_OFF), ("samples", FINISHED)]
    assert main([str(tmp_path / "nothing")]) == 2
    assert "there is no run in" in capsys.readouterr().err


def test_of_thousands_of_parts_a_sample_of_footers_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ten million rows, half of them there: 4,883 parts of 1,024 rows, with 2 failed rows each.
    uri = tmp_path / "tables" / "answers" / "bb"
    Plan(rows=10_000_000, rows_per_part=1024).write(str(uri))
    part(str(uri), 0, 1024, {"corrupt": 2})
    for number in range(1, 4883):
        os.link(uri / tables.part_name(0), uri / tables.part_name(number))
    finished(str(tmp_path), "samples", "aa", 10_000_000)
    session(str(tmp_path))
    read: list[int] = []
    footer = tables.part_summary
    monkeypatch.setattr(tables, "part_summary", lambda folder, part: read.append(part) or footer(folder, part))
    monkeypatch.setattr(tables, "read_part", None)  # no rows are read
    stage = run_status(str(tmp_path), NOW).stages[-1]
    assert (stage.rows, stage.rows_wanted) == (4883 * 1024, 10_000_000)
    assert len(read) <= MOST_FOOTERS
    assert stage.estimated
    assert stage.failures == {"corrupt": pytest.approx(2 * 4883, abs=1)}


def test_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half_done(str(tmp_path))
    evil = "no \x1b[2Jmodel at https://me:hunter2@host/v1"
    session(str(tmp_path), state="stopped", message=evil, beat=time.time() - 400, command=[*COMMAND, "\x1b]0;x\x07"])
    assert main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "stopped; begun" in text
    assert "samples                   finished" in text
    assert "6 of 10 (60.0%)" in text
    assert "failures of answers: corrupt 1, refused 1" in text
    assert "1 more tables of other settings" in text
    assert "cd '/home/me/my work' && /venv/bin/python pipelines/full.py --config 'my birds.yaml'" in text
    assert not any(ord(char) < 32 and char != "\n" for char in text)
    assert main([str(tmp_path), "--json"]) == 0
    raw = capsys.readouterr().out
    facts = json.loads(raw)
    assert (facts["state"], facts["stages"][1]["rows"]) == ("stopped", 6)
    assert "hunter2" not in text + raw
    assert "\x1b" not in raw


def test_what_the_source_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = {
        "left_out": {"ending": {".heic": 1200, ".txt": 3}, "hidden": {".*": 2}},
        "remarks": ["HEIC \x1b[2J is read"],
    }
    uri = storage.join(str(tmp_path), "tables", "samples", "aa")
    Table(uri, "samples", "aa", 10, 0, 1, 10, 12.5, extra=facts).commit()
    assert main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "samples: 1,203 files were left out by their ending: 1,200 .heic, 3 .txt (ingest.source.extensions)" in text
    assert "samples: 2 hidden files or folders were left out" in text
    assert "samples: HEIC �[2J is read" in text
    assert main([str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"][0]["left_out"] == facts["left_out"]


def test_failures_with_their_words_of_finished_and_unfinished_stages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half_done(str(tmp_path))  # its footers are those of an earlier version
    uri = storage.join(str(tmp_path), "tables", "answers", "bb")
    said = {"image_id": 5, "uri": "/p/cats/5.png", "detail": "HTTP 400:\x1b[2J no seed of https://a:hunter2@h"}
    part(uri, 1, 4, {"request_rejected": 3}, examples={"request_rejected": said})
    labels = storage.join(str(tmp_path), "tables", "labels", "cc")
    examples = {"refused": Example(2, "I cannot help")}
    Table(labels, "labels", "cc", 4, 1, 1, 4, 1.0, failures={"refused": 1}, examples=examples).commit()
    session(str(tmp_path), stages=[["answers", "bb"], ["labels", "cc"]], state="stopped")
    assert main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "failures of answers: corrupt 1, refused 1, request_rejected 3" in text
    assert "  request_rejected (3), e.g. image 5 (cats/5.png): HTTP 400:" in text
    assert "  corrupt (1)\n" in text
    assert f"  table: {uri} (column error)" in text
    assert "  refused (1), e.g. image 2: I cannot help" in text
    assert f"  table: {labels} (column error)" in text
    assert not any(ord(char) < 32 and char != "\n" for char in text)
    assert main([str(tmp_path), "--json"]) == 0
    raw = capsys.readouterr().out
    assert json.loads(raw)["stages"][0]["examples"]["request_rejected"]["image_id"] == 5
    assert "hunter2" not in text + raw


def test_it_needs_neither_ray_nor_a_model() -> None:
    script = "import sys, pipelines.status; print(sorted({'ray', 'torch', 'mlflow', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_session_of_this_process() -> None:
    here = Session.here()
    assert here.command[0] == sys.orig_argv[0]
    assert (here.pid, here.host, here.folder, here.submitted) == (
        os.getpid(),
        socket.gethostname(),
        str(Path.cwd()),
        False,
    )


@pytest.mark.slow
def test_a_run_in_a_bucket(s3: Any) -> None:
    s3.makedirs("status", exist_ok=True)
    half_done("s3://status/runs/birds")
    session("s3://status/runs/birds")
    status = run_status("s3://status/runs/birds", NOW)
    assert (status.state, status.others) == (RUNNING, 1)
    assert [(stage.name, stage.state, stage.rows, stage.failed) for stage in status.stages] == [
        ("samples", FINISHED, 10, 0),
        ("answers", RUNNING, 6, 2),
    ]


def test_remarks_of_a_table_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "birds")
    session(run)
    uri = storage.join(run, "tables", "samples", "aa")
    Table(uri, "samples", "aa", 5, 0, 1, 5, 1.0, extra={"remarks": ["1 of 5 photos (20%) have no class"]}).commit()
    assert main([run]) == 0
    assert "samples: 1 of 5 photos (20%) have no class\n" in capsys.readouterr().out
