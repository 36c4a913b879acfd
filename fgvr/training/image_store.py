"""Decoded training images, read from a memory-mapped file: photos are decoded once, not once an epoch.

The file holds the pixels of one image after the other, each already shrunk to what the student's crops need. All
processes of a machine share it through the page cache, and two students that train on the same photos decode them
once. What does not fit below the bound, or on the disk, stays out and is decoded whenever it is asked for.

That a photo could not be read is a result of a moment, and a store outlives the run that met it: whoever opens a store
tries these photos again, and adds those that can be read by now.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fgvr import disk_cache, storage
from fgvr.config.data import ImageLimits
from fgvr.images.read import ImageError, read_image
from fgvr.models.student import Pixels, Preprocess
from fgvr.prefetch import read_ahead
from fgvr.storage_errors import cannot_write, is_full
from fgvr.training.store_files import (
    FAILED,
    INDEX_FILE,
    PIXELS_FILE,
    Index,
    Offsets,
    PixelsFile,
    Stamps,
    room,
    stamps_of,
    warn_full,
)

log = logging.getLogger(__name__)

FORMAT = 2
"""Raised when the files, or the pixels that a photo becomes, change: older stores are not read then."""
LOG_EVERY_SECONDS = 30.0
SAVE_EVERY_SECONDS = 300.0
"""What is decoded between two writings of the index is lost at most when a process dies that decodes millions."""
REMOTE_THREADS = 16


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
    """Images by their position in a list of URIs.

    Attributes:
        folder: where their pixels lie; None where nothing could be kept.
        failures: of those that could not be read when the store was opened, by position.
    """

    def __init__(
        self, folder: Path | None, uris: Sequence[str], settings: StoreSettings, index: Index | None = None
    ) -> None:
        """To be called under the lock of `folder`; `index`: as it is known, else it is read there."""
        self.folder, self.uris, self.settings = folder, uris, settings
        if index is None and folder is not None:
            index = Index.read(folder, len(uris))
        index = index or Index.empty(len(uris))
        self.offsets, self.shapes = index.offsets, index.shapes
        self.failures = dict(sorted(index.failures.items()))
        self._bytes: mmap.mmap | bytes = b""
        self._use: disk_cache.Use | None = None
        if folder is not None:
            with suppress(OSError):  # a full disk: the file stays readable to this process whoever removes it
                self._use = disk_cache.Use(folder)
            with (folder / PIXELS_FILE).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._bytes = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""

    def __getitem__(self, position: int) -> Pixels:
        """The shrunk image, uint8 [H, W, 3], read-only; raises ImageError where it cannot be had (now)."""
        offset = int(self.offsets[position])
        if offset < 0:
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
    """The store of these images below `root`, built or completed first where photos are missing in it.

    Args:
        root: cache folder on this machine, shared by stores.
        identity: what else decides the images' content, e.g. the version of the samples table.
        uris: where they are.
        settings: how they are kept.

    Any number of processes may ask at once: one reads, the others wait for it. Where the cache cannot be written, a
    warning says so, and nothing is kept.
    """
    asked = time.time()
    key = _key(identity, uris, settings)
    stamps = stamps_of(uris)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with disk_cache.locked(root / f"{key}{disk_cache.LOCK}"):
            folder, index = _find(root, key, stamps)
            # What others tried while this process waited for them is not tried again.
            late = index.tried <= asked
            positions = index.to_read(uris, stamps, room(root)) if late else np.zeros(0, np.int64)
            if len(positions) or not (folder / INDEX_FILE).exists():
                _complete(folder, index, positions, _Photos(uris, stamps, settings))
            os.utime(folder)
            store = ImageStore(folder, uris, settings, index)
    except OSError as error:
        if not cannot_write(error):
            raise
        log.warning(
            "%s: decoded training images cannot be kept there (%s): every epoch decodes them. Set FGVR_CACHE to a "
            "folder with room, or lower makd.cache_gb; %s",
            root,
            error.strerror,
            disk_cache.HOW_TO_CLEAN,
        )
        index = Index.empty(len(uris))
        _read(None, index, np.arange(len(uris)), _Photos(uris, stamps, settings))  # once: failures must be known
        return ImageStore(None, uris, settings, index)
    with suppress(OSError):  # those who read a store keep its file: others may be removed under them
        disk_cache.make_room(root, settings.max_bytes, keep=folder, in_use=True)
    return store


@dataclass(frozen=True)
class _Photos:
    """All photos of a store, and their files as they are now."""

    uris: Sequence[str]
    stamps: Stamps
    settings: StoreSettings


def _key(identity: str, uris: Sequence[str], settings: StoreSettings) -> str:
    """Names the list and the way it is kept; which content of its local files a store holds is in its index."""
    digest = hashlib.sha256(f"{FORMAT}/{identity}/{settings.preprocess.stored_side}/{settings.max_bytes}".encode())
    digest.update(settings.limits.model_dump_json(exclude={"web", "allowed_roots"}).encode())
    for uri in uris:
        digest.update(uri.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:20]


def _find(root: Path, key: str, stamps: Stamps) -> tuple[Path, Index]:
    """The store of this list that fits to the files as they are now, or the place of a new one and an empty index."""
    last = 0
    for folder in root.glob(f"{key}-*"):
        index = Index.read(folder, len(stamps))
        if index is not None and index.fits(stamps):
            return folder, index
        if index is None:  # what a process left that died: whoever reads pixels of it keeps them
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(ValueError):
            last = max(last, int(folder.name.rpartition("-")[2]))
    return root / f"{key}-{last + 1}", Index.empty(len(stamps))


def _complete(folder: Path, index: Index, positions: Offsets, photos: _Photos) -> None:
    """Read photos into a store; what it holds already stays where it is, under whoever reads it."""
    folder.mkdir(exist_ok=True)
    # Stores that nobody reads make room where the disk has little: at most so much will be written.
    expected = 4 * photos.settings.preprocess.stored_side**2 * len(positions)
    everything = 2**62  # the bound holds for what there is, and is looked at when that is known
    disk_cache.make_room(folder.parent, everything, keep=folder, needed=min(expected, photos.settings.max_bytes))
    if index.failures:
        log.info("%s photos that could not be read before are tried again", f"{len(positions):,}")
    _read(folder, index, positions, photos)
    _write(index, folder, photos.settings)


def _write(index: Index, folder: Path, settings: StoreSettings) -> None:
    try:
        index.write(folder)
    except OSError as error:
        if not is_full(error):
            raise
        warn_full(folder, settings.max_bytes)  # this process has its index, the next one reads them again


def _read(folder: Path | None, index: Index, positions: Offsets, photos: _Photos) -> None:
    """Read the photos at `positions`, append their pixels to the file in `folder`, and bring the index up to date."""
    shown = saved = time.monotonic()
    with PixelsFile(folder, photos.settings.max_bytes) as file:
        for number, image in enumerate(_decoded(photos, positions)):
            position = int(positions[number])
            index.stamps[position] = photos.stamps[position]
            index.failures.pop(position, None)
            if isinstance(image, ImageError):
                index.offsets[position] = FAILED
                index.failures[position] = image.failure
            else:
                index.offsets[position], index.shapes[position] = file.append(image), image.shape[:2]
            if time.monotonic() - shown > LOG_EVERY_SECONDS:
                shown = time.monotonic()
                done, gib = f"{number + 1:,}", file.end / 2**30
                log.info("decoding: %s of %s images, %.1f GiB", done, f"{len(positions):,}", gib)
            if folder is not None and time.monotonic() - saved > SAVE_EVERY_SECONDS:
                file.to_disk()
                _write(index, folder, photos.settings)
                saved = time.monotonic()
    index.tried = time.time()


def _decoded(photos: _Photos, positions: Offsets) -> Iterator[Pixels | ImageError]:
    """Images or errors in the order of the positions; remote files wait for the network, so more are read at once.

    URIs are taken as they are needed: of a hundred million no list is made.
    """
    uris, settings = photos.uris, photos.settings
    remote = any(not storage.is_local(uris[int(position)]) for position in positions)
    threads = max(settings.threads, REMOTE_THREADS if remote else 1)
    chosen = (uris[int(position)] for position in positions)
    return read_ahead(lambda uri: _try(uri, settings), chosen, threads=threads, ahead=4 * threads)


def _try(uri: str, settings: StoreSettings) -> Pixels | ImageError:
    try:
        return read_shrunk(uri, settings)
    except ImageError as error:
        return error
