"""Sessions that begin where another one works, worked, waits, or was cut off; clocks are turned by hand."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster import lease
from cluster.lease import LeaseLost, Owner, numbers
from cluster.ownership import HANDOVER, SILENCE, OwnerUnreadable, RunTaken, acquire, look, owned
from fgvr import storage
from tests.cluster.leases import HandClock, dead_here, elsewhere, owner_now, taken_by

HOLDS = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
from cluster.ownership import owned
with owned(sys.argv[1], beat=0.1) as mine:
    print("up", flush=True)
    {body}
"""


def holder(folder: Path, body: str = "time.sleep(60)") -> subprocess.Popen[str]:
    """Another process that owns the run, and has said so."""
    command = [sys.executable, "-c", HOLDS.format(body=body), str(folder), "--run.name", "birds"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def seconds_until_taken(folder: Path, clock: HandClock) -> float:
    acquire(str(folder), clock=clock, pause=clock.pause)
    return clock.now


def test_a_new_run_and_one_that_ended_are_taken_at_once(tmp_path: Path) -> None:
    clock = HandClock()
    first = acquire(str(tmp_path), clock=clock, pause=clock.pause)
    first.release()
    second = acquire(str(tmp_path), clock=clock, pause=clock.pause)
    assert (second.fence.number, clock.now, numbers(str(tmp_path))) == (2, 0, [2])


def test_of_a_process_that_is_gone_nothing_is_waited_for(tmp_path: Path) -> None:
    taken_by(tmp_path, dead_here())
    assert seconds_until_taken(tmp_path, HandClock()) == 0


def test_a_session_that_works_here_is_named_and_how_to_take_over(tmp_path: Path) -> None:
    process = holder(tmp_path)
    clock = HandClock()
    try:
        with pytest.raises(RunTaken) as refused:
            acquire(str(tmp_path), clock=clock, pause=clock.pause)
    finally:
        process.kill()
        process.communicate()
    said = str(refused.value)
    assert clock.now == 0
    assert f"process {process.pid} on {os.uname().nodename} (user " in said
    assert "--run.name birds" in said
    assert "since 20" in said
    assert f"kill {process.pid}" in said
    assert "--run.take_over true" in said
    assert not (tmp_path / "config.yaml").exists()
    assert seconds_until_taken(tmp_path, HandClock()) == 0  # killed: at once


def test_a_session_elsewhere_whose_signs_come_is_refused_at_the_first(tmp_path: Path) -> None:
    other = taken_by(tmp_path, elsewhere(job="raysubmit_12"))
    clock = HandClock(events={9.0: other.beat})
    with pytest.raises(RunTaken, match="ray job stop raysubmit_12"):
        acquire(str(tmp_path), clock=clock, pause=clock.pause)
    assert 9 <= clock.now <= 10
    assert list((tmp_path / "owner").glob("waiting*")) == []


@pytest.mark.parametrize("ahead", [-86400.0, 0.0, 86400.0])
def test_a_session_elsewhere_that_is_silent_is_waited_for_whatever_its_clock_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ahead: float
) -> None:
    taken_by(tmp_path, replace(elsewhere(), since=time.time() + ahead))
    seconds = seconds_until_taken(tmp_path, HandClock())
    assert SILENCE <= seconds <= SILENCE + 1
    assert f"Waiting for a heartbeat of it, at most {SILENCE:.0f} s" in caplog.text
    assert "process 4711 on gpu-3" in caplog.text


def test_a_second_that_waits_is_refused_when_a_third_was_quicker(tmp_path: Path) -> None:
    taken_by(tmp_path, elsewhere())
    third = replace(elsewhere(), token="of the third")
    clock = HandClock()

    def third_takes_it() -> None:
        clock.events[70.0] = taken_by(tmp_path, third).beat

    clock.events[50.0] = third_takes_it
    with pytest.raises(RunTaken):
        acquire(str(tmp_path), clock=clock, pause=clock.pause)
    assert 70 <= clock.now <= 71


def test_taking_over_waits_until_the_other_has_ended(tmp_path: Path) -> None:
    other = taken_by(tmp_path, elsewhere())
    clock = HandClock(events={7.0: other.beat, 12.0: other.release})
    mine = acquire(str(tmp_path), take_over=True, clock=clock, pause=clock.pause)
    assert 12 <= clock.now <= 13
    assert other.lost is not None
    assert numbers(str(tmp_path)) == [mine.fence.number]
    mine.check()


def test_taking_over_from_one_that_never_answers_is_bounded(tmp_path: Path) -> None:
    taken_by(tmp_path, elsewhere())
    clock = HandClock()
    acquire(str(tmp_path), take_over=True, clock=clock, pause=clock.pause)
    assert HANDOVER <= clock.now <= HANDOVER + 1


def test_who_gives_up_while_it_takes_over_leaves_the_run_free(tmp_path: Path) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    taken_by(tmp_path, elsewhere())
    with pytest.raises(KeyboardInterrupt):
        acquire(str(tmp_path), take_over=True, clock=HandClock(), pause=interrupted)
    assert acquire(str(tmp_path), pause=lambda _: pytest.fail("it is waited for")).fence.number == 3


def test_where_nobody_works_taking_over_is_nothing_special(tmp_path: Path) -> None:
    clock = HandClock()
    acquire(str(tmp_path), take_over=True, clock=clock, pause=clock.pause).release()
    acquire(str(tmp_path), take_over=True, clock=clock, pause=clock.pause)
    assert clock.now == 0


def in_a_block(folder: Path, error: BaseException | None) -> None:
    with owned(str(folder), beat=0.1):
        if error is not None:
            raise error


@pytest.mark.parametrize("error", [None, ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_the_run_is_given_back_however_the_block_ends(tmp_path: Path, error: BaseException | None) -> None:
    before = signal.getsignal(signal.SIGTERM)  # Ray's, where another test of this process has started it
    if error is None:
        in_a_block(tmp_path, None)
    else:
        with pytest.raises(type(error)):
            in_a_block(tmp_path, error)
    assert owner_now(tmp_path).state == "released"
    assert list(lease.held()) == []
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_told_to_end_gives_it_back(tmp_path: Path, number: signal.Signals) -> None:
    process = holder(tmp_path)
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert owner_now(tmp_path).state == "released"


def test_the_first_ends_by_itself_when_it_is_taken_over(tmp_path: Path) -> None:
    process = holder(tmp_path)
    mine = acquire(str(tmp_path), take_over=True)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert f"LeaseLost: {tmp_path}: process {os.getpid()} on" in said
    mine.check()
    assert numbers(str(tmp_path)) == [mine.fence.number]


def test_a_session_that_was_stopped_for_a_while_finds_out_before_it_writes(tmp_path: Path) -> None:
    body = """
    try:
        while True:
            mine.check()
            open(sys.argv[1] + "/written", "w").write("mine")
            time.sleep(0.05)
    except BaseException as error:
        print(type(error).__name__, flush=True)
        raise"""
    process = holder(tmp_path, body.strip().replace("\n    ", "\n    "))
    while not (tmp_path / "written").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() - stopped < 20
    clock = HandClock()
    acquire(str(tmp_path), take_over=True, clock=clock, pause=clock.pause)
    assert clock.now >= HANDOVER  # it did not answer
    (tmp_path / "written").write_text("the second's")
    process.send_signal(signal.SIGCONT)
    out, _ = process.communicate(timeout=20)
    assert out.split() in (["LeaseLost"], ["SystemExit"])  # whichever of the two threads was quicker
    assert (tmp_path / "written").read_text() == "the second's"


def test_what_is_lost_is_told_whatever_the_block_raises(tmp_path: Path) -> None:
    def block() -> None:
        with owned(str(tmp_path), beat=60) as mine:
            taken_by(tmp_path, elsewhere())
            with pytest.raises(LeaseLost):
                mine.check()
            raise ConnectionError("as a library says whose files were removed")

    with pytest.raises(LeaseLost, match="gpu-3"):
        block()


def test_looking_at_a_run(tmp_path: Path) -> None:
    def seen(clock: HandClock, seconds: float = 30) -> tuple[bool, float | None, bool]:
        found = look(str(tmp_path), seconds, clock=clock, pause=clock.pause)
        assert found is not None
        return found.is_alive, found.silent, found.waiting is not None

    assert look(str(tmp_path), 30) is None
    mine = taken_by(tmp_path, Owner.here())
    assert seen(HandClock()) == (True, None, False)
    mine.release()
    assert seen(HandClock()) == (False, None, False)
    other = taken_by(tmp_path, elsewhere())
    assert seen(HandClock(events={12.0: other.beat})) == (True, None, False)
    assert seen(HandClock()) == (False, 30, False)
    waiting = storage.join(str(tmp_path), "owner", "waiting-a.json")
    storage.write_bytes(waiting, elsewhere(beats=1).as_json())
    later = elsewhere(beats=2).as_json()
    assert seen(HandClock(events={5.0: lambda: storage.write_bytes(waiting, later)})) == (False, 30, True)
    assert seen(HandClock()) == (False, 30, False)  # it was cut off, too
    taken_by(tmp_path, dead_here())
    assert seen(HandClock()) == (False, None, False)


def test_in_a_bucket(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.ownership.LOOK", 15.0)  # fewer requests
    s3.makedirs("owners", exist_ok=True)
    folder, clock = "s3://owners/runs/birds", HandClock()
    first = acquire(folder, clock=clock, pause=clock.pause)
    with pytest.raises(RunTaken, match="another session works on s3://owners/runs/birds: process"):
        acquire(folder, clock=clock, pause=clock.pause)
    first.release()
    taken_by(folder, elsewhere())
    second = acquire(folder, clock=clock, pause=clock.pause)
    assert clock.now == SILENCE
    with pytest.raises(LeaseLost):
        first.check()
    second.check()
    assert numbers(folder) == [3]


@pytest.mark.parametrize("name", ["run?", "run*", "photos [12]"])
def test_a_run_whose_name_looks_like_a_pattern_forgets_its_own_owners_alone(name: str, tmp_path: Path) -> None:
    bucket, clock = f"memory://{tmp_path.name}", HandClock()
    others = [acquire(f"{bucket}/{other}") for other in ("run1", "photos 1")]
    for _ in range(2):
        acquire(f"{bucket}/{name}", clock=clock, pause=clock.pause).release()
    assert numbers(f"{bucket}/{name}") == [2]
    for other in others:
        other.check()
        other.release()


def test_a_folder_in_the_place_of_an_owner_is_said_and_not_waited_for_for_ever(tmp_path: Path) -> None:
    (tmp_path / "owner" / "00000001.json").mkdir(parents=True)
    clock = HandClock()
    with pytest.raises(OwnerUnreadable, match=r"00000001\.json.*Remove it"):
        acquire(str(tmp_path), clock=clock, pause=clock.pause)
    assert clock.now <= 2 * HANDOVER
