"""Replies in segments: how few files there are, what a killed or damaged writer leaves, and what others find."""

import multiprocessing
import os
import tracemalloc
import uuid
from pathlib import Path

import numpy as np
import pytest

from fgvr import storage
from fgvr.mllm.openai_server import cache as reply_cache
from fgvr.mllm.openai_server import cache_writer
from fgvr.mllm.openai_server.cache import ReplyCache
from fgvr.mllm.openai_server.cache_segments import HEADER, Places, scan, short
from fgvr.mllm.openai_server.cache_writer import writer_of


def key_of(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC834 + 7:064x}"[-64:][::-1]


def keep_and_end(folder: str, numbers: range) -> None:
    """In a process of its own, which ends as one that is killed does."""
    cache = ReplyCache(folder)
    for number in numbers:
        cache.keep(key_of(number), b"reply %d" % number)
    os._exit(9)


def kept_by_another(folder: str, numbers: range) -> None:
    process = multiprocessing.get_context("fork").Process(target=keep_and_end, args=(folder, numbers))
    process.start()
    process.join()
    assert process.exitcode == 9


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_writer, "SEGMENT_REPLIES", 10)
    monkeypatch.setattr(cache_writer, "BATCH_REPLIES", 4)
    monkeypatch.setattr(reply_cache, "MERGE_AT", 3)


def test_what_a_killed_worker_kept_is_found(tmp_path: Path) -> None:
    kept_by_another(str(tmp_path), range(300))
    cache = ReplyCache(str(tmp_path))
    assert [cache.find(key_of(number)) for number in range(301)] == [*(b"reply %d" % n for n in range(300)), None]
    assert len(list(tmp_path.iterdir())) == 1


def test_what_others_keep_later_is_found_at_the_next_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ReplyCache(str(tmp_path))
    assert cache.find(key_of(0)) is None
    kept_by_another(str(tmp_path), range(3))
    assert cache.find(key_of(0)) is None  # not looked for again yet
    monkeypatch.setattr(reply_cache, "LOOK_SECONDS", 0.0)
    assert cache.find(key_of(2)) == b"reply 2"


@pytest.mark.parametrize("place", ["disk", "object store"])
def test_segments_that_are_complete_are_few_files_and_found(tmp_path: Path, small_segments: None, place: str) -> None:
    folder = str(tmp_path) if place == "disk" else f"memory://{uuid.uuid4().hex}/replies"
    cache = ReplyCache(folder)
    for number in range(97):
        cache.keep(key_of(number), b"%d" % number)
        assert cache.find(key_of(number)) == b"%d" % number
        assert cache.find(key_of(number // 2)) == b"%d" % (number // 2)
    writer_of(folder).flush()
    files = storage.list_files(folder)
    assert len(files) == (9 * 2 + 1 if place == "disk" else 9 * 2 + 2 * 2)  # the last seven: a segment, or two batches
    another = ReplyCache(folder)
    assert [another.find(key_of(number)) for number in range(98)] == [*(b"%d" % n for n in range(97)), None]


def test_a_batch_that_became_part_of_a_segment_is_found_there(small_segments: None) -> None:
    folder = f"memory://{uuid.uuid4().hex}"
    writer = cache_writer.RemoteWriter(folder)  # as in another process
    keys = [bytes.fromhex(key_of(number)) for number in range(10)]
    for key in keys[:4]:
        writer.keep(key, b"early")
    reader = ReplyCache(folder)
    assert reader.find(key_of(1)) == b"early"
    for key in keys[4:]:
        writer.keep(key, b"late")
    assert len(storage.list_files(folder)) == 2
    assert reader.find(key_of(2)) == b"early"
    assert reader.find(key_of(9)) == b"late"


def test_replies_wait_for_a_batch_no_longer_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_writer, "BATCH_SECONDS", 0.01)
    folder = f"memory://{uuid.uuid4().hex}"
    writer = cache_writer.RemoteWriter(folder)
    writer.keep(bytes.fromhex(key_of(0)), b"alone")
    timer = writer._timer
    assert timer is not None
    timer.join(30)
    assert ReplyCache(folder).find(key_of(0)) == b"alone"


@pytest.mark.parametrize("cut", [1, 5, 40, 60])
def test_a_torn_tail_loses_its_reply_alone(tmp_path: Path, cut: int) -> None:
    kept_by_another(str(tmp_path), range(5))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-cut])
    found = [ReplyCache(str(tmp_path)).find(key_of(number)) for number in range(5)]
    lost = 1 if cut <= 51 else 2  # a record is 48 bytes and its body, here of 7
    assert found == [*(b"reply %d" % n for n in range(5 - lost)), *[None] * lost]


def test_damage_in_the_middle_loses_its_reply_alone(tmp_path: Path) -> None:
    kept_by_another(str(tmp_path), range(5))
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[data.index(b"reply 2") + 3] ^= 1
    file.write_bytes(data)
    found = [ReplyCache(str(tmp_path)).find(key_of(number)) for number in range(5)]
    assert found == [b"reply 0", b"reply 1", None, b"reply 3", b"reply 4"]


def test_a_reply_that_looks_like_a_record_is_none(tmp_path: Path) -> None:
    """Whoever answers could else put replies to other questions into the cache, where one is torn."""
    cache = ReplyCache(str(tmp_path))
    cache.keep(key_of(0), b"x")
    (file,) = tmp_path.iterdir()
    forged = file.read_bytes()[HEADER:].replace(b"x", b"y")  # of another segment: its word is not this one's
    other = tmp_path / "other"
    kept_by_another(str(other), range(0))
    reader = ReplyCache(str(other))
    reader.keep(key_of(1), forged)
    (file,) = other.iterdir()
    torn = file.read_bytes()
    assert scan(torn).keys == [short(bytes.fromhex(key_of(1)))]
    assert scan(torn[:HEADER] + torn[HEADER + 1 :]).keys == []


def test_a_later_reply_to_the_same_question_counts(tmp_path: Path, small_segments: None) -> None:
    cache = ReplyCache(str(tmp_path))
    for number in range(60):  # over six segments
        cache.keep(key_of(number % 7), b"%d" % number)
    for reader in (cache, ReplyCache(str(tmp_path))):
        assert [reader.find(key_of(number)) for number in range(7)] == [b"%d" % n for n in [56, 57, 58, 59, 53, 54, 55]]


def test_caches_of_earlier_versions_are_read(tmp_path: Path) -> None:
    key = key_of(3)
    storage.write_bytes(tmp_path / key[:2] / f"{key}.json", b"paid for long ago")
    cache = ReplyCache(str(tmp_path))
    assert cache.find(key) == b"paid for long ago"
    assert cache.find(key_of(4)) is None
    cache.keep(key, b"new")
    assert ReplyCache(str(tmp_path)).find(key) == b"new"


def test_a_folder_that_was_removed_meanwhile_is_made_again(tmp_path: Path) -> None:
    cache = ReplyCache(str(tmp_path / "replies"))
    cache.keep(key_of(0), b"a")
    storage.remove(tmp_path / "replies")
    assert cache.find(key_of(0)) is None
    cache.keep(key_of(1), b"b")
    assert ReplyCache(str(tmp_path / "replies")).find(key_of(1)) == b"b"
    assert len(list((tmp_path / "replies").iterdir())) == 1


def test_places_of_many_replies_are_not_held_in_memory() -> None:
    rng = np.random.default_rng(0)
    indexes = {n: np.sort(rng.integers(0, 2**63, (2, 100_000), dtype=np.uint64) * np.uint64(2)) for n in range(3)}
    tracemalloc.start()
    places = Places(Places(None, {0: indexes[0]}), {1: indexes[1], 2: indexes[2]})
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 500_000  # of 300,000 replies: 6 MB if they were in memory
    assert peak < 4_000_000
    for number, index in indexes.items():
        for at in (0, 777, 99_999):
            assert list(places.find(int(index[0, at]))) == [(number, int(index[1, at]))]
    assert list(places.find(1)) == []
