"""Decoded training images, read from a memory-mapped file: photos are decoded once, not once an epoch.

The file holds the pixels of one image after the other, each already shrunk to what the student's crops need. All
processes of a machine share it through the page cache, and two students that train on the same photos decode them
once. What does not fit below the bound stays out and is decoded whenever it is asked for.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import mmap
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fgvr import storage
from fgvr.config.data import ImageLimits
from fgvr.images import ImageError, read_image
from fgvr.read_ahead import read_ahead
from fgvr.schemas import Failure, Reason
from fgvr.students.preprocess import Pixels, Preprocess

log = logging.getLogger(__name__)

FAILED, NOT_STORED = -1, -2
PIXELS_FILE, INDEX_FILE, FAILURES_FILE = "pixels.bin", "index.npz", "failures.json"
LOG_EVERY_SECONDS = 30.0
REMOTE_THREADS = 16
ABANDONED_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class StoreSettings:
    """What decides how images are kept.

    Attributes:
        preprocess: says how far photos are shrunk.
        limits: of reading an image.
        max_bytes: bound of all stores in the cache folder together.
        threads: that decode.
    """

    preprocess: Preprocess
    limits: ImageLimits
    max_bytes: int
    threads: int = 1


class ImageStore:
    """Images by their position in a list of URIs."""

    def __init__(self, folder: Path, uris: Sequence[str], settings: StoreSettings) -> None:
        self.uris, self.settings = uris, settings
        with np.load(folder / INDEX_FILE) as index:
            self.offsets: npt.NDArray[np.int64] = index["offsets"]
            self.shapes: npt.NDArray[np.int32] = index["shapes"]
        failures = json.loads((folder / FAILURES_FILE).read_text())
        self.failures = {int(n): Failure(Reason(reason), detail) for n, (reason, detail) in failures.items()}
        with (folder / PIXELS_FILE).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._bytes = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""

    def __getitem__(self, position: int) -> Pixels:
        """The shrunk image, uint8 [H, W, 3], read-only; raises ImageError where it cannot be had."""
        offset = int(self.offsets[position])
        if offset == FAILED:
            failure = self.failures[position]
            raise ImageError(failure.reason, failure.detail)
        if offset == NOT_STORED:
            return read_shrunk(self.uris[position], self.settings)
        height, width = (int(side) for side in self.shapes[position])
        flat = np.frombuffer(self._bytes, dtype=np.uint8, count=height * width * 3, offset=offset)
        return flat.reshape(height, width, 3)


def read_shrunk(uri: str, settings: StoreSettings) -> Pixels:
    """An image file as the store keeps it; raises ImageError."""
    preprocess = settings.preprocess
    image = read_image(uri, settings.limits, short_side=preprocess.stored_side)
    return preprocess.shrink(np.asarray(image))


def open_store(root: Path, identity: str, uris: Sequence[str], settings: StoreSettings) -> ImageStore:
    """The store of these images below `root`, built first where it is not there.

    Args:
        root: cache folder on this machine, shared by stores.
        identity: what else decides the images' content, e.g. the version of the samples table.
        uris: where they are.
        settings: how they are kept.

    Any number of processes may ask at once: one builds, the others wait for it.
    """
    folder = root / _key(identity, uris, settings)
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / f"{folder.name}.lock"):
        if not (folder / INDEX_FILE).exists():
            fresh = root / f".{folder.name}.{uuid.uuid4().hex[:8]}"
            try:
                _build(fresh, uris, settings)
                shutil.rmtree(folder, ignore_errors=True)
                fresh.rename(folder)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        os.utime(folder)
        store = ImageStore(folder, uris, settings)
    _evict(root, keep=folder, max_bytes=settings.max_bytes)
    return store


def _key(identity: str, uris: Sequence[str], settings: StoreSettings) -> str:
    """Names the content: another version of the samples, another size, a local file that changed: another store."""
    digest = hashlib.sha256(f"{identity}/{settings.preprocess.stored_side}/{settings.max_bytes}".encode())
    digest.update(settings.limits.model_dump_json(exclude={"web"}).encode())
    for uri in uris:
        digest.update(uri.encode())
        if storage.is_local(uri):
            try:
                facts = storage.local_path(uri).stat()
            except OSError:
                continue  # it fails in the store, too, with a reason
            digest.update(f"{facts.st_size}.{facts.st_mtime_ns}".encode())
    return digest.hexdigest()[:20]


def _build(folder: Path, uris: Sequence[str], settings: StoreSettings) -> None:
    folder.mkdir(parents=True)
    offsets = np.full(len(uris), NOT_STORED, dtype=np.int64)
    shapes = np.zeros((len(uris), 2), dtype=np.int32)
    failures: dict[int, tuple[str, str]] = {}
    end, shown = 0, time.monotonic()
    with (folder / PIXELS_FILE).open("wb") as file:
        for position, image in enumerate(_decoded(uris, settings)):
            if isinstance(image, ImageError):
                offsets[position] = FAILED
                failures[position] = (image.reason.value, image.detail)
            elif end + image.nbytes <= settings.max_bytes:
                file.write(np.ascontiguousarray(image).data)
                offsets[position], shapes[position] = end, image.shape[:2]
                end += image.nbytes
            if time.monotonic() - shown > LOG_EVERY_SECONDS:
                shown = time.monotonic()
                log.info("decoding: %s of %s images, %.1f GiB", f"{position + 1:,}", f"{len(uris):,}", end / 2**30)
    (folder / FAILURES_FILE).write_text(json.dumps(failures))
    np.savez(folder / INDEX_FILE, offsets=offsets, shapes=shapes)


def _decoded(uris: Sequence[str], settings: StoreSettings) -> Iterator[Pixels | ImageError]:
    """Images or errors in the order of the URIs; remote files wait for the network, so more of them wait at once."""
    remote = any(not storage.is_local(uri) for uri in uris)
    threads = max(settings.threads, REMOTE_THREADS if remote else 1)
    return read_ahead(lambda uri: _try(uri, settings), uris, threads=threads, ahead=4 * threads)


def _try(uri: str, settings: StoreSettings) -> Pixels | ImageError:
    try:
        return read_shrunk(uri, settings)
    except ImageError as error:
        return error


@contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """One process at a time; the system frees the lock of a process that dies. BlockingIOError without `wait`."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def _evict(root: Path, *, keep: Path, max_bytes: int) -> None:
    """Remove the stores that were used longest ago until the rest fits; a process that reads one keeps its file."""
    folders = sorted((f for f in root.iterdir() if f != keep and f.suffix != ".lock"), key=_last_used)
    total = sum(_size(folder) for folder in [*folders, keep])
    for folder in folders:
        building = folder.name.startswith(".")
        abandoned = building and time.time() - _last_used(folder) > ABANDONED_SECONDS
        if abandoned or (total > max_bytes and not building):
            total -= _size(folder)
            with suppress(BlockingIOError), _locked(root / f"{folder.name}.lock", wait=False):
                shutil.rmtree(folder, ignore_errors=True)


def _last_used(folder: Path) -> float:
    with suppress(FileNotFoundError):  # another process may just have renamed or removed it
        return folder.stat().st_mtime
    return time.time()


def _size(folder: Path) -> int:
    with suppress(FileNotFoundError):
        return sum(file.stat().st_size for file in folder.glob("*"))
    return 0
