"""What is kept on a machine's disk: bounds, age, and what living processes use."""

import errno
import multiprocessing
import os
import time
from pathlib import Path

import fsspec
import pytest

from fgvr import disk_cache, storage
from fgvr.disk_cache import GIB, CacheError, Entry, Use
from fgvr.storage_errors import StorageFull


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FGVR_CACHE_GB", raising=False)
    return tmp_path / "cache"


def put(folder: Path, name: str, size: int, used: float) -> Path:
    entry = folder / name
    entry.mkdir(parents=True)
    (entry / "content").write_bytes(bytes(size))
    os.utime(entry, (used, used))
    return entry


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())


def entry_of(folder: Path) -> Entry:
    (found,) = [entry for entry in disk_cache.entries(folder.parent) if entry.folder == folder]
    return found


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    for name, used in (("old", 1), ("older", 0), ("new", 2)):
        put(tmp_path, name, 100, used)
    disk_cache.make_room(tmp_path, 300)
    assert len(names(tmp_path)) == 3
    disk_cache.make_room(tmp_path, 300, needed=50)
    assert names(tmp_path) == ["new", "old"]
    disk_cache.make_room(tmp_path, 0, keep=tmp_path / "old")
    assert names(tmp_path) == ["old"]
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".lock"] == []


def test_the_disk_counts_as_the_bound_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, used in (("a", 0), ("b", 1), ("c", 2)):
        put(tmp_path, name, 100, used)
    monkeypatch.setattr(disk_cache, "free_bytes", lambda _: 450 - 100 * len(names(tmp_path)))
    disk_cache.make_room(tmp_path, GIB, needed=300)  # there are 150, then 250, then 350
    assert names(tmp_path) == ["c"]


def _hold(entry: Path, held: multiprocessing.SimpleQueue, end: multiprocessing.SimpleQueue) -> None:
    use = Use(entry)
    held.put(use is not None)
    end.get()


def test_what_another_process_uses_stays_until_it_ends(tmp_path: Path) -> None:
    entry = put(tmp_path, "model", 100, 0)
    context = multiprocessing.get_context("fork")
    held, end = context.SimpleQueue(), context.SimpleQueue()
    process = context.Process(target=_hold, args=(entry, held, end))
    process.start()
    assert held.get()
    assert entry_of(entry).busy
    disk_cache.make_room(tmp_path, 0)
    assert not disk_cache.remove(entry_of(entry))
    assert entry.is_dir()
    process.kill()  # a death frees it, too
    process.join()
    assert not entry_of(entry).busy
    disk_cache.make_room(tmp_path, 0)
    assert not entry.exists()


def test_those_whose_files_stay_open_go_after_all_others(tmp_path: Path) -> None:
    used = put(tmp_path, "used", 100, 0)
    use = Use(used)
    put(tmp_path, "free", 100, 5)
    disk_cache.make_room(tmp_path, 100, in_use=True)
    assert names(tmp_path) == ["used"]
    disk_cache.make_room(tmp_path, 0, in_use=True)
    assert names(tmp_path) == []
    use.end()


def test_what_is_being_made_stays(tmp_path: Path) -> None:
    entry, making = put(tmp_path, "key-1", 100, 0), put(tmp_path, ".key.1234", 100, 0)
    with disk_cache.locked(disk_cache.lock_of(entry)):
        assert disk_cache.lock_of(entry) == disk_cache.lock_of(making)
        disk_cache.make_room(tmp_path, 0, in_use=True)
        assert names(tmp_path) == [".key.1234", "key-1"]
        with pytest.raises(BlockingIOError), disk_cache.locked(disk_cache.lock_of(entry), wait=False):
            pass
    disk_cache.make_room(tmp_path, 0)
    assert names(tmp_path) == []


def test_locks_of_what_is_gone_are_swept(tmp_path: Path) -> None:
    put(tmp_path, "there", 1, 0)
    for file in ("there.lock", "there.use", "gone.lock", "gone.use", "a person's file"):
        (tmp_path / file).touch()
    disk_cache.sweep(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a person's file", "there", "there.lock", "there.use"]


def test_a_lock_is_that_of_the_file_that_is_there(tmp_path: Path) -> None:
    """Whoever cleans up removes the file while others wait for it: they must not hold what nobody else looks at."""
    lock = tmp_path / "a.lock"
    descriptor = disk_cache._lock(lock, disk_cache.fcntl.LOCK_EX, wait=True)
    lock.unlink()
    with disk_cache.locked(lock, wait=False):
        assert lock.stat().st_ino != os.fstat(descriptor).st_ino
        with pytest.raises(BlockingIOError), disk_cache.locked(lock, wait=False):
            pass
    os.close(descriptor)


@pytest.mark.parametrize(("asked", "gib"), [("0.5", 0.5), ("30", 30)])
def test_the_bound_can_be_set(root: Path, monkeypatch: pytest.MonkeyPatch, asked: str, gib: float) -> None:
    usage = disk_cache.shutil.disk_usage("/")
    monkeypatch.setattr(disk_cache.shutil, "disk_usage", lambda _: usage._replace(total=80 * GIB))
    assert disk_cache.bound(root) == 20 * GIB  # a quarter of the disk
    monkeypatch.setattr(disk_cache.shutil, "disk_usage", lambda _: usage._replace(total=8000 * GIB))
    assert disk_cache.bound(root) == 100 * GIB
    monkeypatch.setenv("FGVR_CACHE_GB", asked)
    assert disk_cache.bound(root) == gib * GIB


@pytest.mark.parametrize("asked", ["much", "0", "-1", "nan", "inf"])
def test_a_bound_that_is_none_is_said(root: Path, monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("FGVR_CACHE_GB", asked)
    with pytest.raises(CacheError, match=f"FGVR_CACHE_GB = '{asked}' is no size"):
        disk_cache.bound(root)


@pytest.fixture
def models():
    """Four models of 1,000 bytes in an object store."""
    uris = [f"memory://cached-models/{name}" for name in "abcd"]
    for uri in uris:
        storage.write_bytes(f"{uri}/weights", uri[-1].encode() * 1000)
    yield uris
    fsspec.filesystem("memory").rm("/cached-models", recursive=True)
    for folder in list(storage._IN_USE):
        storage.forget_folder(folder)


def test_copies_make_room_for_one_another(models: list[str], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGVR_CACHE_GB", str(2500 / GIB))
    first, second = (storage.fetch_folder(uri) for uri in models[:2])
    assert entry_of(first).source == models[0]
    third = storage.fetch_folder(models[2])
    assert {first, second, third} <= set((root / "folders").iterdir())  # all are in use here
    storage._IN_USE.pop(first).end()
    fourth = storage.fetch_folder(models[3])
    assert not first.exists()
    assert (fourth / "weights").read_bytes() == b"d" * 1000
    assert (storage.fetch_folder(models[0]) / "weights").read_bytes() == b"a" * 1000


def test_a_copy_that_is_not_needed_any_more_is_forgotten(models: list[str], tmp_path: Path) -> None:
    copy = storage.fetch_folder(models[0])
    other = Use(copy)  # as of another process
    storage.forget_folder(copy)
    assert copy.is_dir()
    other.end()
    storage.fetch_folder(models[0])
    storage.forget_folder(copy)
    assert not copy.exists()
    storage.forget_folder(tmp_path)
    assert tmp_path.is_dir()


def refusing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def get_file(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "get_file", get_file)


def test_a_full_disk_of_the_cache_names_the_cache(models, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, errno.ENOSPC)
    with pytest.raises(
        StorageFull, match=r"no space is left.*memory://cached-models/a: .*pipelines/cache\.py.*FGVR_CACHE"
    ):
        storage.fetch_folder(models[0])
    assert names(root / "folders") == []


def test_a_cache_that_cannot_be_written_is_said_and_what_is_there_is_read(
    models, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = storage.fetch_folder(models[0])
    monkeypatch.setattr(disk_cache.os, "open", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "denied")))
    assert storage.fetch_folder(models[0]) == copy
    with pytest.raises(
        CacheError, match=r"copy of memory://cached-models/b cannot be written there \(denied\): set FGVR"
    ):
        storage.fetch_folder(models[1])


def test_what_others_wrote_is_seen_at_once(models: list[str]) -> None:
    """A listing from before hides nothing: file systems of fsspec remember theirs unless they are told not to."""
    assert storage.list_files(models[0]) == ["weights"]
    fs, _ = storage.resolve("s3://bucket/folder")
    fs.dircache["bucket/folder"] = []
    assert "bucket/folder" not in fs.dircache


def test_ages_are_of_the_last_use(tmp_path: Path) -> None:
    entry = put(tmp_path, "model", 10, time.time() - 1000)
    assert time.time() - entry_of(entry).used == pytest.approx(1000, abs=5)
    use = Use(entry)
    assert time.time() - entry_of(entry).used < 5
    use.end()


@pytest.mark.parametrize("below", ["", "cache"])
def test_a_file_where_the_cache_should_be_is_named(tmp_path, monkeypatch, below):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path / "file" / below))
    fsspec.filesystem("memory").pipe_file("/below-a-file/model.bin", b"x")
    with pytest.raises(CacheError, match=r"cannot be written there .*set FGVR_CACHE"):
        storage.fetch_folder("memory://below-a-file")


def test_photos_of_a_person_s_make_no_room(tmp_path: Path) -> None:
    """FGVR_CACHE may be a folder with an `images` that was there before."""
    photos = put(tmp_path, "2019", 1000, 0)
    (photos / "summer").mkdir()
    (photos / "summer" / "IMG_1.JPG").write_bytes(b"photo")
    linked = tmp_path / "elsewhere"
    linked.symlink_to(photos)
    ours = put(tmp_path, "0123456789abcdef0123-1", 100, 1)
    (ours / "example.png").write_bytes(b"a model's picture")
    used = put(tmp_path, "model", 100, 2)
    (used / "example.png").write_bytes(b"a model's picture")
    (tmp_path / "model.use").touch()
    assert [entry.folder.name for entry in disk_cache.entries(tmp_path)] == ["0123456789abcdef0123-1", "model"]
    disk_cache.make_room(tmp_path, 0)
    assert names(tmp_path) == ["2019", "elsewhere"]
    assert (photos / "summer" / "IMG_1.JPG").read_bytes() == b"photo"
