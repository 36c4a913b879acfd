"""Digests of files: all bytes count, and they are read once."""

import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fgvr import digests, storage
from fgvr.clip.source import find_clip
from fgvr.config.models import Clip, VllmBackend
from fgvr.digests import FileChanging, content_of, file_digest, folder_digest, folder_files
from fgvr.metrics.semantic import look_up
from fgvr.mllm.vllm_engine.model_files import identity

LARGE = 3 * 2**20


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "digests"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose bytes were read."""
    seen: list[str] = []

    def digest(file: Any, name: str) -> Any:
        seen.append(Path(file.name).name)
        return real(file, name)

    real = hashlib.file_digest
    monkeypatch.setattr("fgvr.digests.hashlib.file_digest", digest)
    return seen


def weights(path: Path, *, age: float = 60, change: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = bytearray(bytes(range(256)) * (LARGE // 256))
    if change is not None:
        data[change] ^= 1
    path.write_bytes(data)
    aged(path, age)
    return path


def aged(path: Path, seconds: float) -> None:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes: what was written counts as written a while ago. (Nobody sets the time of an inode's change.)"""
    now = digests.time.time
    monkeypatch.setattr("fgvr.digests.time.time", lambda: now() + 60)


def test_a_digest_is_of_all_bytes_and_costs_once(tmp_path: Path, reads: list[str], settled: None, cache: Path) -> None:
    file = weights(tmp_path / "w.bin")
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    assert [file_digest(file) for _ in range(3)] == [expected] * 3
    assert reads == ["w.bin"]
    (kept,) = cache.iterdir()
    assert json.loads(kept.read_text())["digest"] == expected


@pytest.mark.parametrize("place", [0, 70_000, LARGE // 2 + 1, LARGE - 1])
def test_a_byte_that_changes_anywhere_is_noticed(place: int, tmp_path: Path, settled: None) -> None:
    for kind in ("clip", "mllm", "bert"):
        model = tmp_path / kind
        weights(model / "open_clip_model.safetensors")
        for name in ("config.json", "open_clip_config.json"):
            (model / name).write_text('{"vision_config": {}, "model_cfg": {}}')
        (model / "modules.json").write_text("[]")

    def identities() -> list[Any]:
        clip = find_clip(Clip(model=str(tmp_path / "clip"))).identity()
        return [clip, identity(VllmBackend(model=str(tmp_path / "mllm"))), look_up(str(tmp_path / "bert")).identity()]

    before = identities()
    assert identities() == before
    for kind in ("clip", "mllm", "bert"):
        weights(tmp_path / kind / "open_clip_model.safetensors", change=place)
    assert all(one != other for one, other in zip(before, identities(), strict=True))


def test_another_content_of_the_same_size_and_time_is_noticed(tmp_path: Path, settled: None) -> None:
    file = weights(tmp_path / "w.bin")
    first, then = file_digest(file), file.stat()
    weights(file, change=99)  # in place: the same inode
    os.utime(file, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert file.stat().st_mtime_ns == then.st_mtime_ns
    assert file_digest(file) != first


def test_what_was_written_a_moment_ago_is_not_kept(tmp_path: Path, reads: list[str], cache: Path) -> None:
    file = weights(tmp_path / "w.bin", age=0)
    file_digest(file)
    file_digest(file)
    assert reads == ["w.bin", "w.bin"]
    assert not cache.exists()


def test_a_file_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: None
) -> None:
    file, real = weights(tmp_path / "w.bin"), hashlib.file_digest
    times = iter(range(9))

    def slow(stream: Any, name: str) -> Any:
        digest = real(stream, name)
        if next(times) < changes:
            file.write_bytes(os.urandom(LARGE))
        return digest

    monkeypatch.setattr("fgvr.digests.hashlib.file_digest", slow)
    changes = 1
    assert file_digest(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    changes = 9
    file.write_bytes(os.urandom(LARGE))
    with pytest.raises(FileChanging, match=r"w\.bin: it was changed while it was read, 3 times"):
        file_digest(file)


def test_a_damaged_or_unwritable_cache_costs_time_only(tmp_path: Path, settled: None, cache: Path) -> None:
    file = weights(tmp_path / "w.bin")
    expected = file_digest(file)
    (kept,) = cache.iterdir()
    for damage in ("", "{", '{"mark": 1}', '{"mark": null, "digest": 5}', "[]"):
        kept.write_text(damage)
        assert file_digest(file) == expected
    kept.unlink()
    cache.rmdir()
    cache.write_text("a file in its place")
    assert file_digest(file) == expected


def test_the_cache_is_bounded(tmp_path: Path, settled: None, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fgvr.digests.BOUND", 8)
    monkeypatch.setattr("fgvr.digests.SMALL", 0)
    for number in range(20):
        (tmp_path / f"{number}.bin").write_bytes(b"x" * (number + 1))
        file_digest(tmp_path / f"{number}.bin")
        assert len(list(cache.iterdir())) <= 8


def test_many_may_ask_at_once(tmp_path: Path, settled: None, cache: Path) -> None:
    file, together = weights(tmp_path / "w.bin"), threading.Barrier(8)

    def ask(_: int) -> str:
        together.wait()
        return file_digest(file)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {hashlib.sha256(file.read_bytes()).hexdigest()}
    assert [entry.suffix for entry in cache.iterdir()] == [".json"]


def test_a_folder_counts_by_what_a_model_needs_wherever_it_lies(tmp_path: Path) -> None:
    for name in ("one", "deeper/two"):
        weights(tmp_path / name / "w.bin")
        (tmp_path / name / "config.json").write_text("{}")
    first = folder_digest(tmp_path / "one")
    assert folder_digest(tmp_path / "deeper" / "two") == first
    assert folder_digest(f"file://{tmp_path}/one/") == first
    for name in (
        "README.md",
        "LICENSE",
        "LICENSE.txt",
        ".git/HEAD",
        ".cache/huggingface/w.bin.metadata",
        ".gitattributes",
        "Thumbs.db",
        "desktop.ini",
        "__pycache__/modeling.cpython-311.pyc",
    ):
        file = tmp_path / "one" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("for people and tools")
        assert folder_digest(tmp_path / "one") == first, name
    (tmp_path / "one" / "tokenizer.json").write_text("{}")
    assert folder_digest(tmp_path / "one") != first
    with pytest.raises(FileNotFoundError):
        folder_digest(tmp_path / "none")


def test_linked_folders_count_and_circles_end(tmp_path: Path) -> None:
    model, shared = tmp_path / "model", tmp_path / "shared"
    for folder in (model, shared):
        folder.mkdir()
    (model / "config.json").write_text("{}")
    (shared / "w.bin").write_text("1")
    (model / "encoder").symlink_to(shared)
    (model / "again").symlink_to(model)
    (shared / "back").symlink_to(model)
    (model / "gone").symlink_to(tmp_path / "nowhere")
    assert sorted(folder_files(model)) == ["config.json", "encoder/w.bin"]
    linked = folder_digest(model)
    (shared / "w.bin").write_text("2")
    assert folder_digest(model) != linked
    (shared / "w.bin").write_text("1")
    copy = tmp_path / "copy"
    (copy / "encoder").mkdir(parents=True)
    (copy / "config.json").write_text("{}")
    (copy / "encoder" / "w.bin").write_text("1")
    assert folder_digest(copy) == linked  # a link is what it leads to


def test_a_file_of_weights_counts_by_its_content(tmp_path: Path) -> None:
    def of(file: Path, model: str = "ViT-B-16") -> Any:
        return find_clip(Clip(model=model, pretrained=str(file))).identity()

    first, copy = weights(tmp_path / "a" / "clip.pt"), weights(tmp_path / "b" / "moved.pt", age=900)
    assert of(first) == of(copy) == of(first, "ViT-B/16")
    assert of(weights(copy, change=LARGE - 7)) != of(first)


def test_objects_count_by_their_store_s_mark() -> None:
    storage.write_bytes("memory://digests/w.bin", b"one")
    before = content_of("memory://digests/w.bin")
    assert content_of("memory://digests/w.bin") == before
    storage.write_bytes("memory://digests/w.bin", b"two")
    assert content_of("memory://digests/w.bin") != before
