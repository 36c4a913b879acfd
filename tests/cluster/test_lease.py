"""One owner of a run at a time, on disks and in buckets; who has lost it finds out before it writes."""

import json
import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from cluster import lease
from cluster.lease import Fence, Lease, LeaseLost, Owner, claim, newest, numbers
from fgvr import storage
from tests.cluster.leases import dead_here, elsewhere, owner_now, taken_by


def race(folder: str, contenders: int) -> list[int]:
    """How many of so many threads at once got each number."""
    start = threading.Barrier(contenders)
    won: list[int] = []

    def contend() -> None:
        start.wait()
        won.extend(number for number in range(1, 4) if claim(folder, number, Owner.here()) is not None)

    threads = [threading.Thread(target=contend) for _ in range(contenders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(won)


def contend_in_a_process(folder: str, start: Any, won: Any) -> None:
    start.wait()
    if claim(folder, 1, Owner.here()) is not None:
        won.put(os.getpid())


def test_of_many_at_once_one_gets_a_number(tmp_path: Path) -> None:
    won = race(str(tmp_path), 16)
    # A slow one that gets a low number after a higher one was taken gives it back.
    assert len(won) == len(set(won))
    assert won[-1] == 3
    assert numbers(str(tmp_path))[-1] == 3


def test_of_processes_too(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, won = context.Barrier(6), context.SimpleQueue()
    processes = [context.Process(target=contend_in_a_process, args=(str(tmp_path), start, won)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    winner = won.get()
    assert won.empty()
    assert owner_now(tmp_path).process.pid == winner


def test_in_a_bucket_too(s3: Any) -> None:
    s3.makedirs("leases", exist_ok=True)
    assert race("s3://leases/runs/birds", 4)[-1] == 3
    mine = taken_by("s3://leases/runs/birds", Owner.here())
    mine.beat()
    mine.check()
    assert owner_now("s3://leases/runs/birds").beats == 1
    taken_by("s3://leases/runs/birds", elsewhere())
    with pytest.raises(LeaseLost, match="process 4711 on gpu-3"):
        mine.check()


def test_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    assert race(str(tmp_path), 8)[-1] == 3


def test_a_store_whose_answer_is_lost_has_made_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = storage.resolve("memory://lost/")[0]
    write = type(fs).pipe_file

    def answers_twice(self: Any, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
        write(self, path, value, mode=mode, **more)
        if mode == "create":  # the client asks again, and the file of its first request is there
            raise FileExistsError(path)

    monkeypatch.setattr(type(fs), "pipe_file", answers_twice)
    assert storage.create_bytes("memory://lost/a", b"mine")
    assert not storage.create_bytes("memory://lost/a", b"another's")


def test_who_lost_the_run_writes_no_sign_and_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    first = taken_by(tmp_path, Owner.here())
    first.on_lost = lambda: told.append("lost")
    first.beat()
    first.check()
    second = taken_by(tmp_path, elsewhere())
    lease.forget_earlier(second)
    before = owner_now(tmp_path)
    for _ in range(2):
        first.beat()
        with pytest.raises(LeaseLost, match=r"process 4711 on gpu-3 \(user ann\), since .*: python pipelines/full\.py"):
            first.check()
    assert told == ["lost"]
    assert (owner_now(tmp_path), numbers(str(tmp_path))) == (before, [2])
    second.check()


def test_a_listing_that_a_drive_remembers_hides_no_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = taken_by(tmp_path, Owner.here())
    lease.forget_earlier(taken_by(tmp_path, elsewhere()))
    monkeypatch.setattr(lease, "numbers", lambda _: [1])  # as before
    with pytest.raises(LeaseLost, match=r"00000001\.json, is gone"):
        first.check()


def test_a_run_folder_that_was_removed_and_begun_anew_by_another(tmp_path: Path) -> None:
    first = taken_by(tmp_path, Owner.here())
    storage.remove(str(tmp_path / "owner"))
    second = taken_by(tmp_path, elsewhere())
    assert second.fence.number == first.fence.number == 1
    with pytest.raises(LeaseLost, match="gpu-3"):
        first.check()
    first.release()
    assert owner_now(tmp_path).state == "held"  # the other's file is not the first one's to change


def test_storage_that_is_away_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    mine = taken_by(tmp_path, Owner.here())
    monkeypatch.setattr(lease, "TELL_SECONDS", -1.0)

    def away(*_: object) -> bytes:
        raise ConnectionError("the store does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(storage, "read_bytes", away)
        mine.beat()
        mine.beat()
    (tmp_path / "owner").rename(tmp_path / "unmounted")
    mine.beat()
    assert mine.lost is None
    assert not (tmp_path / "owner").exists()  # nothing is written below a drive that is not there
    (tmp_path / "unmounted").rename(tmp_path / "owner")
    mine.beat()
    mine.check()
    assert owner_now(tmp_path).beats == 1
    assert caplog.text.count("no heartbeat could be written for") == 1


def test_a_fence_travels(tmp_path: Path) -> None:
    from ray import cloudpickle

    mine = taken_by(tmp_path, Owner.here())
    fence: Fence = cloudpickle.loads(cloudpickle.dumps(mine.fence))
    fence.check()
    taken_by(tmp_path, elsewhere())
    with pytest.raises(LeaseLost):
        fence.check()


def test_what_is_checked_is_the_run_around_a_file(tmp_path: Path) -> None:
    mine = taken_by(tmp_path / "run", Owner.here())
    end = lease.hold(mine)
    taken_by(tmp_path / "run", elsewhere())
    lease.check(str(tmp_path / "run-2" / "tables"))
    for place in (None, str(tmp_path / "run"), str(tmp_path / "run" / "tables" / "labels")):
        with pytest.raises(LeaseLost):
            lease.check(place)
    end()
    lease.check()


UNREADABLE = [
    *("", "[]", "{", "[" * 100_000, '{"token": 1}', '{"process": {}, "of_a_later_version": 1}'),
    *('{"token": "a", "process": {}, "since": 1e18}', '{"token": "a", "process": {}, "since": NaN}'),
    *('{"token": "a", "process": {}, "since": "noon"}', '{"token": "a", "process": {}, "command": null}'),
    *(
        '{"token": 5, "process": {}}',
        '{"token": "a", "process": {"pid": "x"}}',
        '{"token": "a", "process": {}, "state": 1}',
    ),
]


@pytest.mark.parametrize("text", UNREADABLE, ids=range(len(UNREADABLE)))
def test_an_owner_that_cannot_be_read_is_one_of_whom_nothing_is_known(tmp_path: Path, text: str) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "00000007.json").write_text(text)
    owner = owner_now(tmp_path)
    assert (owner.is_free, owner.process.is_alive) == (False, False)
    assert "cannot be read" in str(owner)


def test_an_owner_reads_back_as_it_was_and_hides_its_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.orig_argv", ["python", "x.py", "--tracking.uri", "http://me:hunter2@host", "\x1b[2J"])
    job = {"metadata": {"job_submission_id": "raysubmit_7"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    mine: Lease = taken_by(tmp_path, Owner.here())
    there = owner_now(tmp_path)
    assert there.token == mine.fence.token
    assert there.command[-2] == "http://***@host"
    assert "Ray job raysubmit_7" in str(there)
    assert "\x1b" not in str(there)
    assert newest(str(tmp_path / "nothing")) is None


def test_a_run_is_free_when_its_session_said_so_or_its_process_is_gone(tmp_path: Path) -> None:
    assert dead_here().is_free
    assert not Owner.here().is_free
    assert not elsewhere().is_free
    mine = taken_by(tmp_path, Owner.here())
    mine.release()
    assert owner_now(tmp_path).is_free
    mine.beat()
    assert owner_now(tmp_path).is_free


def test_numbers_go_on_behind_the_last_of_eight_digits(tmp_path: Path) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "99999999.json").write_text("{}")
    mine = claim(str(tmp_path), 100_000_000, Owner.here())
    assert mine is not None
    mine.check()
    assert numbers(str(tmp_path)) == [99_999_999, 100_000_000]
    assert claim(str(tmp_path), 100_000_000, Owner.here()) is None
