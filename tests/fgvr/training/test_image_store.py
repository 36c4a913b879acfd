import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fgvr.config import ImageLimits
from fgvr.images import ImageError
from fgvr.schemas import Reason
from fgvr.students.preprocess import Preprocess
from fgvr.training import image_store
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
