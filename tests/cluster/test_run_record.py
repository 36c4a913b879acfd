"""Sessions that end well, with an error, or are killed; and the secrets of their command lines."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.run_record import FILE, Session, recorded
from fgvr.errors import UserError


def kept(folder: Path) -> Session:
    return Session(**json.loads((folder / FILE).read_text()))


def test_a_session_says_what_it_does_and_that_it_is_over(tmp_path: Path) -> None:
    with recorded(str(tmp_path)) as record:
        assert kept(tmp_path).state == "running"
        record.stage("samples", "aa")
        record.stage("labels", "bb")
        record.stage("samples", "aa")  # found again by a later stage
        record.serves("http://127.0.0.1:9/metrics")
        assert kept(tmp_path).stages == [["samples", "aa"], ["labels", "bb"]]
    assert (kept(tmp_path).state, kept(tmp_path).metrics) == ("finished", "http://127.0.0.1:9/metrics")


def test_a_session_that_stops_says_why_without_secrets(tmp_path: Path) -> None:
    def stops() -> None:
        with recorded(str(tmp_path)):
            raise UserError("no model at https://me:hunter2@host/v1\x1b[2J")

    with pytest.raises(UserError):
        stops()
    assert kept(tmp_path).state == "stopped"
    assert kept(tmp_path).message == "no model at https://***@host/v1�[2J"


def test_a_killed_session_leaves_its_command_masked_and_no_last_word(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom cluster.run_record import recorded\n"
        "with recorded(sys.argv[1], beat=0.05):\n    print('up', flush=True)\n    time.sleep(60)"
    )
    secret = ["--tracking.uri", "http://me:hunter2@host"]
    command = [sys.executable, "-c", script, str(tmp_path), *secret]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.5)
    process.kill()
    process.wait()
    left = kept(tmp_path)
    assert left.state == "running"
    assert left.beat > left.started + 0.2
    assert left.command[-3:] == [str(tmp_path), "--tracking.uri", "http://***@host"]


def test_a_store_that_takes_no_sign_of_life_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(uri: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with recorded(str(tmp_path)) as record:
        monkeypatch.setattr("fgvr.storage.write_bytes", full)
        record.stage("samples", "aa")
        monkeypatch.undo()
        record.stage("labels", "bb")
    assert kept(tmp_path).stages == [["samples", "aa"], ["labels", "bb"]]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"of_a_later_version": 1}'])
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert Session.read(str(tmp_path)) is None
