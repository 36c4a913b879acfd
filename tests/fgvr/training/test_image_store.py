import errno
import multiprocessing
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from unicodedata import normalize

import fsspec
import numpy as np
import pytest
from PIL import Image

from fgvr import disk_cache
from fgvr.config import ImageLimits
from fgvr.images.places import TarPlace
from fgvr.images.read import ImageError
from fgvr.models.student import Preprocess
from fgvr.schemas import Reason
from fgvr.training import image_store, store_files
from fgvr.training.image_store import StoreSettings, open_store

PREPROCESS = Preprocess(input_size=8, resize=8, stored_side=12, mean=(0, 0, 0), std=(1, 1, 1))


def settings(max_bytes: int = 10**9, threads: int = 1) -> StoreSettings:
    return StoreSettings(PREPROCESS, ImageLimits(), max_bytes, threads)


@pytest.fixture
def photos(tmp_path) -> list[str]:
    """Two PNG photos, one of them large, a corrupt file and one that is not there."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (10, 9, 3), dtype=np.uint8)).save(tmp_path / "small.png")
    Image.fromarray(np.full((48, 96, 3), (1, 2, 3), np.uint8)).save(tmp_path / "large.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    return [str(tmp_path / name) for name in ("small.png", "large.png", "broken.png", "missing.png")]


@pytest.mark.parametrize("threads", [1, 3])
def test_images_are_kept_shrunk_and_failures_with_their_reason(photos, tmp_path, threads):
    store = open_store(tmp_path / "cache", "v1", photos, settings(threads=threads))
    assert (store[0] == np.asarray(Image.open(photos[0]))).all()
    assert store[1].shape == (12, 24, 3)
    assert (store[1] == (1, 2, 3)).all()
    assert {position: failure.reason for position, failure in store.failures.items()} == {
        2: Reason.CORRUPT,
        3: Reason.NOT_FOUND,
    }
    with pytest.raises(ImageError, match=r"missing\.png"):
        store[3]


def test_photos_are_decoded_once(photos, tmp_path, monkeypatch):
    first = open_store(tmp_path / "cache", "v1", photos, settings())
    monkeypatch.setattr(image_store, "read_image", lambda *_, **__: pytest.fail("decoded again"))
    again = open_store(tmp_path / "cache", "v1", photos, settings())
    assert (again[0] == first[0]).all()
    assert again.failures == first.failures


def test_beyond_the_bound_images_are_decoded_when_asked_for(photos, tmp_path, monkeypatch):
    store = open_store(tmp_path / "cache", "v1", photos, settings(max_bytes=10 * 9 * 3))
    assert (store[1] == (1, 2, 3)).all()
    Path(photos[1]).unlink()
    with pytest.raises(ImageError):  # it is read from its file, the first from the store
        store[1]
    assert store[0].shape == (10, 9, 3)
    assert sum(file.stat().st_size for file in (tmp_path / "cache").rglob("pixels.bin")) == 270


@pytest.mark.parametrize("change", ["identity", "file", "size"])
def test_what_changes_the_pixels_is_another_store(photos, tmp_path, change):
    open_store(tmp_path / "cache", "v1", photos, settings())
    preprocess, identity = PREPROCESS, "v1"
    if change == "identity":
        identity = "v2"
    elif change == "file":
        Image.new("RGB", (5, 5), (9, 9, 9)).save(photos[0])
    else:
        preprocess = Preprocess(input_size=8, resize=8, stored_side=20, mean=(0, 0, 0), std=(1, 1, 1))
    other = StoreSettings(preprocess, ImageLimits(), 10**9)
    open_store(tmp_path / "cache", identity, photos, other)
    assert len(list((tmp_path / "cache").glob("*/index.npz"))) == 2


def test_old_stores_make_room(photos, tmp_path):
    root = tmp_path / "cache"
    store = open_store(root, "old", photos, settings())
    size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    old = next(root.glob("*/index.npz")).parent
    os.utime(old, (1, 1))
    open_store(root, "new", photos, settings(max_bytes=size + 1))
    assert not old.exists()
    assert store[0].shape == (10, 9, 3)  # a process that reads it keeps it


def _open(root: Path, photos: list[str], done: multiprocessing.SimpleQueue) -> None:
    store = open_store(root, "v1", photos, settings())
    done.put((int(store[0].sum()), len(list(root.glob("*/pixels.bin")))))


def test_processes_that_ask_at_once_share_one_store(photos, tmp_path):
    context = multiprocessing.get_context("fork")
    done = context.SimpleQueue()
    processes = [context.Process(target=_open, args=(tmp_path / "cache", photos, done)) for _ in range(3)]
    for process in processes:
        process.start()
    results = {done.get() for _ in processes}
    for process in processes:
        process.join()
    assert results == {(int(np.asarray(Image.open(photos[0])).sum(dtype=np.int64)), 1)}


def test_no_images_is_an_empty_store(tmp_path):
    assert open_store(tmp_path / "cache", "v1", [], settings()).failures == {}


def failed(store) -> dict[int, Reason]:
    return {position: failure.reason for position, failure in store.failures.items()}


def counted(monkeypatch) -> list[str]:
    """The URIs that are read from now on."""
    read, seen = image_store.read_image, []

    def reading(uri, *rest, **more):
        seen.append(uri)
        return read(uri, *rest, **more)

    monkeypatch.setattr(image_store, "read_image", reading)
    return seen


@pytest.fixture
def bucket(photos) -> Iterator[list[str]]:
    """Three photos in an object store, of which the last two are away."""
    uris = [f"memory://student-store/{name}.png" for name in "abc"]
    files = fsspec.filesystem("memory")
    files.pipe_file(uris[0], Path(photos[0]).read_bytes())
    yield uris
    files.rm("/student-store", recursive=True)


def test_remote_photos_that_were_away_are_tried_again_and_they_alone(bucket, photos, tmp_path, monkeypatch):
    first = open_store(tmp_path / "cache", "v1", bucket, settings())
    assert failed(first) == {1: Reason.NOT_FOUND, 2: Reason.NOT_FOUND}
    fsspec.filesystem("memory").pipe_file(bucket[1], Path(photos[1]).read_bytes())
    seen = counted(monkeypatch)
    again = open_store(tmp_path / "cache", "v1", bucket, settings())
    assert failed(again) == {2: Reason.NOT_FOUND}
    assert sorted(seen) == bucket[1:]
    assert (again[1] == (1, 2, 3)).all()
    assert (again[0] == first[0]).all()  # of the first reading, under both
    assert len(list((tmp_path / "cache").glob("*/pixels.bin"))) == 1
    seen.clear()
    fsspec.filesystem("memory").pipe_file(bucket[2], Path(photos[1]).read_bytes())
    assert (again[2] == (1, 2, 3)).all()  # a store that is open reads what it has not
    assert failed(open_store(tmp_path / "cache", "v1", bucket, settings())) == {}
    assert seen == [bucket[2]] * 2


def test_local_photos_that_come_back_complete_the_store(photos, tmp_path, monkeypatch):
    open_store(tmp_path / "cache", "v1", photos, settings())
    Image.new("RGB", (6, 6), (7, 7, 7)).save(photos[3])
    Image.new("RGB", (6, 6), (8, 8, 8)).save(photos[2])
    seen = counted(monkeypatch)
    store = open_store(tmp_path / "cache", "v1", photos, settings())
    assert (failed(store), sorted(seen)) == ({}, sorted(photos[2:]))
    assert (store[2] == 8).all()
    assert (store[3] == 7).all()
    Path(photos[3]).unlink()  # its disk is away: the pixels are here
    assert (open_store(tmp_path / "cache", "v1", photos, settings())[3] == 7).all()
    assert len(seen) == 2


def test_a_file_that_could_not_be_opened_is_tried_again(photos, tmp_path, monkeypatch):
    def refused(uri, *_, **__):
        raise ImageError(Reason.UNREADABLE, f"{uri}: permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(image_store, "read_image", refused)
        assert set(failed(open_store(tmp_path / "cache", "v1", photos[:2], settings())).values()) == {Reason.UNREADABLE}
    assert failed(open_store(tmp_path / "cache", "v1", photos[:2], settings())) == {}


def test_who_waits_for_another_does_not_try_what_that_one_tried(bucket, tmp_path, monkeypatch):
    open_store(tmp_path / "cache", "v1", bucket, settings())
    seen = counted(monkeypatch)
    asked = time.time() - 60  # before the other one was done
    monkeypatch.setattr(image_store.time, "time", lambda: asked)
    assert len(failed(open_store(tmp_path / "cache", "v1", bucket, settings()))) == 2
    assert seen == []


def test_another_tar_under_the_same_name_is_another_store(photos, tmp_path):
    shard = tmp_path / "photos.tar"

    def write(colour: int) -> list[str]:
        with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
            Image.new("RGB", (6, 6), (colour, 0, 0)).save(tmp_path / "one.bmp")
            tar.add(tmp_path / "one.bmp", "one.bmp")
        return [TarPlace(shard.as_uri(), 512, (tmp_path / "one.bmp").stat().st_size, "one.bmp").uri]

    before = write(10)
    assert open_store(tmp_path / "cache", "v1", before, settings())[0].max() == 10
    after = write(20)
    os.utime(shard, (5, 5))
    assert after == before
    assert open_store(tmp_path / "cache", "v1", after, settings())[0].max() == 20


def test_a_full_disk_ends_the_storing_and_room_makes_up_for_it(photos, tmp_path, monkeypatch, caplog):
    whole = store_files.PixelsFile._write

    def until_full(self, image):
        return whole(self, image) if self.end == 0 else self._file.write(b"part") and False

    with monkeypatch.context() as patch:
        patch.setattr(store_files.PixelsFile, "_write", until_full)
        store = open_store(tmp_path / "cache", "v1", photos, settings())
        assert (store[1] == (1, 2, 3)).all()
        assert set(failed(store)) == {2, 3}
    assert sum(file.stat().st_size for file in (tmp_path / "cache").rglob("pixels.bin")) == 270
    assert "no space is left" in caplog.text
    assert "makd.cache_gb" in caplog.text
    assert "FGVR_CACHE" in caplog.text
    with monkeypatch.context() as patch:
        patch.setattr(image_store, "room", lambda _: 12 * 24 * 3 - 1)
        seen = counted(patch)
        open_store(tmp_path / "cache", "v1", photos, settings())
        assert seen == []  # it is still full
    open_store(tmp_path / "cache", "v1", photos, settings())
    Path(photos[1]).unlink()
    assert (open_store(tmp_path / "cache", "v1", photos, settings())[1] == (1, 2, 3)).all()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
def test_where_nothing_can_be_written_nothing_is_kept(photos, tmp_path, monkeypatch, caplog, error):
    def refused(*_, **__):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(disk_cache, "_lock", refused)
    store = open_store(tmp_path / "cache", "v1", photos, settings())
    assert (store[1] == (1, 2, 3)).all()
    assert set(failed(store)) == {2, 3}
    assert f"{os.strerror(error)}): every epoch decodes them. Set FGVR_CACHE" in caplog.text


def test_a_photo_that_comes_back_under_a_name_of_another_system(tmp_path):
    (uri,) = uris = [str(tmp_path / normalize("NFC", "Müsli.png"))]
    there = tmp_path / normalize("NFD", "Müsli.png")
    assert failed(open_store(tmp_path / "cache", "v1", uris, settings())) == {0: Reason.NOT_FOUND}
    for colour in (3, 4):  # then exchanged
        Image.fromarray(np.full((12 + colour, 12, 3), colour, np.uint8)).save(there)
        store = open_store(tmp_path / "cache", "v1", uris, settings())
        assert (store.failures, store[0][0, 0, 0]) == ({}, colour), uri


@pytest.mark.parametrize("below", ["", "images"])
def test_a_file_where_the_cache_should_be(photos, tmp_path, caplog, below):
    (tmp_path / "file").write_text("")
    store = open_store(tmp_path / "file" / below, "v1", photos, settings())
    assert (store[1] == (1, 2, 3)).all()
    assert "Set FGVR_CACHE" in caplog.text


@pytest.mark.parametrize("damaged", ["index.npz", "pixels.bin"])
def test_a_damaged_store_is_built_again(photos, tmp_path, damaged):
    open_store(tmp_path / "cache", "v1", photos, settings())
    (file,) = (tmp_path / "cache").glob(f"*/{damaged}")
    file.write_bytes(file.read_bytes()[:100])
    assert (open_store(tmp_path / "cache", "v1", photos, settings())[1] == (1, 2, 3)).all()


def test_what_was_decoded_before_a_death_is_not_decoded_again(photos, tmp_path, monkeypatch):
    read = image_store.read_image

    def dies(uri, *rest, **more):
        if uri == photos[1]:
            raise KeyboardInterrupt
        return read(uri, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(image_store, "SAVE_EVERY_SECONDS", -1.0)
        patch.setattr(image_store, "read_image", dies)
        with pytest.raises(KeyboardInterrupt):
            open_store(tmp_path / "cache", "v1", photos, settings())
    seen = counted(monkeypatch)
    store = open_store(tmp_path / "cache", "v1", photos, settings())
    assert sorted(seen) == sorted(photos[1:])
    assert (store[0] == np.asarray(Image.open(photos[0]))).all()
    assert (store[1] == (1, 2, 3)).all()


def test_stores_that_nobody_reads_make_room_on_a_full_disk(photos, tmp_path, monkeypatch):
    open_store(tmp_path / "cache", "old", photos, settings())
    (old,) = (tmp_path / "cache").glob("*/index.npz")
    monkeypatch.setattr(disk_cache, "free_bytes", lambda _: 10**9 if not old.exists() else 5)
    open_store(tmp_path / "cache", "new", photos, settings())
    assert not old.exists()
