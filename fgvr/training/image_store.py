"""Decoded training images in a memory-mapped file: photos are decoded only once, not every epoch.

The file holds the pixels of one image after the other, each already shrunk to what the student's crops need. All
processes of a machine share it through the page cache, and two students that train on the same photos decode them a
single time. What exceeds the limit or the disk is not stored, and is decoded on every access.

A failure to read a photo may be temporary, and a store outlives the run that met it: whoever opens a store retries
these photos and adds those that can be read by now.
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
"""Increase it when the files change, or the pixels that a photo becomes: older stores are then ignored."""
LOG_EVERY_SECONDS = 30.0
SAVE_EVERY_SECONDS = 300.0
"""How often the index is written: a process that dies while decoding millions loses at most this much work."""
REMOTE_THREADS = 16


@dataclass(frozen=True)
class StoreSettings:
    """What determines how images are stored.

    Attributes:
        preprocess: says how much photos are shrunk.
        limits: limits on reading an image.
        max_bytes: limit for all stores in the cache folder together.
        threads: threads that decode.
    """

    preprocess: Preprocess
    limits: ImageLimits
    max_bytes: int
    threads: int = 1


class ImageStore:
    """Images by their position in a list of URIs.

    Attributes:
        folder: where their pixels are stored; None if nothing could be stored.
        failures: images that could not be read when the store was opened, by position.
    """

    def __init__(
        self, folder: Path | None, uris: Sequence[str], settings: StoreSettings, index: Index | None = None
    ) -> None:
        """Call this under the lock of `folder`; `index`: the index if known, else it is read from there."""
        self.folder, self.uris, self.settings = folder, uris, settings
        if index is None and folder is not None:
            index = Index.read(folder, len(uris))
        index = index or Index.empty(len(uris))
        self.offsets, self.shapes = index.offsets, index.shapes
        self.failures = dict(sorted(index.failures.items()))
        self._bytes: mmap.mmap | bytes = b""
        self._use: disk_cache.Use | None = None
        if folder is not None:
            with suppress(OSError):  # a full disk: this process can still read the file even if it is removed
                self._use = disk_cache.Use(folder)
            with (folder / PIXELS_FILE).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._bytes = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""

    def __getitem__(self, position: int) -> Pixels:
        """The shrunk image, uint8 [H, W, 3], read-only; raises ImageError if it cannot be read (now)."""
        offset = int(self.offsets[position])
        if offset < 0:
            return read_shrunk(self.uris[position], self.settings)
        height, width = (int(side) for side in self.shapes[position])
        flat = np.frombuffer(self._bytes, dtype=np.uint8, count=height * width * 3, offset=offset)
        return flat.reshape(height, width, 3)


def read_shrunk(uri: str, settings: StoreSettings) -> Pixels:
    """An image file in the form in which the store keeps it; raises ImageError."""
    preprocess = settings.preprocess
    image = read_image(uri, settings.limits, short_side=preprocess.stored_side)
    return preprocess.shrink(np.asarray(image))


def open_store(root: Path, identity: str, uris: Sequence[str], settings: StoreSettings) -> ImageStore:
    """The store of these images below `root`; builds it, or adds missing photos, first.

    Args:
        root: cache folder on this machine, shared by all stores.
        identity: what else determines the images' content, e.g. the version of the samples table.
        uris: URIs of the images.
        settings: how they are stored.

    Any number of processes may call this at a time: one reads, the others wait for it. If the cache cannot be written,
    a warning says so, and nothing is stored.
    """
    asked = time.time()
    key = _key(identity, uris, settings)
    stamps = stamps_of(uris)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with disk_cache.locked(root / f"{key}{disk_cache.LOCK}"):
            folder, index = _find(root, key, stamps)
            # What other processes tried while this one waited for them is not tried again.
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
        _read(None, index, np.arange(len(uris)), _Photos(uris, stamps, settings))  # needed to know the failures
        return ImageStore(None, uris, settings, index)
    with suppress(OSError):  # readers keep their store's file open, so others may be removed
        disk_cache.make_room(root, settings.max_bytes, keep=folder, in_use=True)
    return store


@dataclass(frozen=True)
class _Photos:
    """All photos of a store, with the current state of their files."""

    uris: Sequence[str]
    stamps: Stamps
    settings: StoreSettings


def _key(identity: str, uris: Sequence[str], settings: StoreSettings) -> str:
    """Identifies the list and how it is stored; the versions of local files in a store are in its index."""
    digest = hashlib.sha256(f"{FORMAT}/{identity}/{settings.preprocess.stored_side}/{settings.max_bytes}".encode())
    digest.update(settings.limits.model_dump_json(exclude={"web", "allowed_roots"}).encode())
    for uri in uris:
        digest.update(uri.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:20]


def _find(root: Path, key: str, stamps: Stamps) -> tuple[Path, Index]:
    """The store of this list that matches the current files, or the place for a new one with an empty index."""
    last = 0
    for folder in root.glob(f"{key}-*"):
        index = Index.read(folder, len(stamps))
        if index is not None and index.fits(stamps):
            return folder, index
        if index is None:  # left by a process that died: open readers keep its pixels
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(ValueError):
            last = max(last, int(folder.name.rpartition("-")[2]))
    return root / f"{key}-{last + 1}", Index.empty(len(stamps))


def _complete(folder: Path, index: Index, positions: Offsets, photos: _Photos) -> None:
    """Read photos into a store; existing pixels stay in place, since other processes may be reading them."""
    folder.mkdir(exist_ok=True)
    # If the disk is short, unused stores are removed: at most this much will be written.
    expected = 4 * photos.settings.preprocess.stored_side**2 * len(positions)
    everything = 2**62  # the limit is applied later, when sizes are known
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
        warn_full(folder, settings.max_bytes)  # this process has the index; the next one reads these photos again


def _read(folder: Path | None, index: Index, positions: Offsets, photos: _Photos) -> None:
    """Read the photos at `positions`, append their pixels to the file in `folder`, and update the index."""
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
    """Images or errors in the order of the positions; remote files wait for the network, so more are read in parallel.

    URIs are taken one by one: a hundred million are never held as a list.
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
