"""The two files of a store of decoded images: an index, and a file of pixels.

The index says where each image's pixels are, from which version of its file they were made, or why there are none. The
pixel file grows up to a limit, leaves some disk space to others, and tolerates a full disk.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from fgvr import disk_cache, storage
from fgvr.images.lookalikes import local_lookalike
from fgvr.images.places import ParquetPlace, TarPlace, is_inside, parse
from fgvr.models.student import Pixels
from fgvr.schemas import Failure, Reason
from fgvr.storage_errors import is_full

log = logging.getLogger(__name__)

FAILED, NOT_STORED, NO_ROOM, UNREAD = -1, -2, -3, -4
"""Values in place of an offset: not readable; beyond the limit; the disk was full; not tried yet."""
INDEX_FILE, PIXELS_FILE = "index.npz", "pixels.bin"
FREE_SHARE, FREE_BYTES = 0.05, 2**30
"""A store leaves free this share of the disk, or this many bytes if that is less, since others write there too."""
LOOK_EVERY = 64
"""How many images are written between two checks of the free space."""

Offsets = npt.NDArray[np.int64]
Shapes = npt.NDArray[np.int32]
Stamps = npt.NDArray[np.int64]
"""[N, 2]: size and modification time of local files; 0 for photos that are remote or missing."""


@dataclass
class Index:
    """Where each image's pixels are, and why some have none.

    Attributes:
        offsets: offsets in the pixel file, or FAILED, NOT_STORED, NO_ROOM, UNREAD.
        shapes: height and width, also of images that are not stored.
        stamps: the files' stamps when they were read.
        failures: failures by position, for FAILED images.
        tried: time of the last attempt to read a photo, seconds since 1970.
    """

    offsets: Offsets
    shapes: Shapes
    stamps: Stamps
    failures: dict[int, Failure] = field(default_factory=dict)
    tried: float = 0.0

    @classmethod
    def empty(cls, count: int) -> Index:
        """An index of `count` images that were not tried yet."""
        return cls(np.full(count, UNREAD, np.int64), np.zeros((count, 2), np.int32), np.zeros((count, 2), np.int64))

    @classmethod
    def read(cls, folder: Path, count: int) -> Index | None:
        """The index in a folder; None if it is missing, damaged, or for another number of images."""
        try:
            pixels = (folder / PIXELS_FILE).stat().st_size
            with np.load(folder / INDEX_FILE, allow_pickle=False) as file:
                failures = json.loads(file["failures"].tobytes())
                known = {int(n): Failure(Reason(reason), detail) for n, (reason, detail) in failures.items()}
                index = cls(file["offsets"], file["shapes"], file["stamps"], known, float(file["tried"]))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None
        return index if len(index.offsets) == count and index.end <= pixels else None

    @property
    def end(self) -> int:
        """Size in bytes of the pixel file that this index describes."""
        kept = self.offsets >= 0
        ends = self.offsets[kept] + 3 * self.shapes[kept].astype(np.int64).prod(axis=1)
        return int(ends.max(initial=0))

    def write(self, folder: Path) -> None:
        """Write atomically: readers see the previous index or this one."""
        rows = {position: (failure.reason.value, failure.detail) for position, failure in self.failures.items()}
        fresh = folder / f".{INDEX_FILE}"
        try:
            with fresh.open("wb") as file:
                np.savez(
                    file,
                    offsets=self.offsets,
                    shapes=self.shapes,
                    stamps=self.stamps,
                    failures=np.frombuffer(json.dumps(rows).encode(), np.uint8),
                    tried=np.float64(self.tried),
                )
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(folder / INDEX_FILE)
        finally:
            fresh.unlink(missing_ok=True)

    def fits(self, stamps: Stamps) -> bool:
        """Whether no stored photo's file was replaced since; a photo whose file is gone now keeps its pixels."""
        known = (self.offsets >= 0) & self.stamps.any(axis=1) & stamps.any(axis=1)
        return bool((self.stamps[known] == stamps[known]).all())

    def to_read(self, uris: Sequence[str], stamps: Stamps, room: int) -> Offsets:
        """Positions to read: those never tried, failures that may be transient, and those that fit by now.

        Args:
            uris: URIs of all photos.
            stamps: their files' stamps. An unchanged local file fails again, unless it could not be opened.
            room: bytes that may be written to the disk.
        """
        again = [
            position
            for position, failure in self.failures.items()
            if failure.reason is Reason.UNREADABLE
            or not storage.is_local(file_of(uris[position]))
            or bool((self.stamps[position] != stamps[position]).any())
        ]
        homeless = np.flatnonzero(self.offsets == NO_ROOM)
        fits = np.cumsum(3 * self.shapes[homeless].astype(np.int64).prod(axis=1)) <= room
        unread = np.flatnonzero(self.offsets == UNREAD)
        return np.sort(np.concatenate([unread, homeless[fits], np.array(again, np.int64)]))


def stamps_of(uris: Sequence[str]) -> Stamps:
    """Size and modification time of each photo's file, or of the container file that holds it."""
    stamps = np.zeros((len(uris), 2), np.int64)
    around: dict[str, tuple[int, int]] = {}  # a single stat per container file
    for position, uri in enumerate(uris):
        file = file_of(uri)
        if file == uri:
            stamps[position] = _stamp(file)
        else:
            if file not in around:
                around[file] = _stamp(file)
            stamps[position] = around[file]
    return stamps


def _stamp(file: str) -> tuple[int, int]:
    if not storage.is_local(file):
        return 0, 0
    try:
        path: Path | None = storage.local_path(file)
        if path is not None and not path.exists():  # it may exist under another system's spelling
            path = local_lookalike(file)
        facts = None if path is None else path.stat()
    except (OSError, ValueError):
        facts = None
    return (0, 0) if facts is None else (facts.st_size, facts.st_mtime_ns)  # the store will record why it fails


def file_of(uri: str) -> str:
    """The photo's own file, or its container file."""
    if not is_inside(uri):
        return uri
    with suppress(ValueError):
        match parse(uri):
            case TarPlace(shard=file) | ParquetPlace(file=file):
                return file
    return uri


def room(folder: Path) -> int:
    """Bytes that a store may still write to the disk of `folder`."""
    disk = shutil.disk_usage(folder)
    return disk.free - min(FREE_BYTES, int(FREE_SHARE * disk.total))


class PixelsFile:
    """A file to which images are appended; existing bytes never change, since other processes may be reading them."""

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        """`folder`: the store's folder; None: nothing is stored."""
        self.folder, self.max_bytes, self.end, self._images = folder, max_bytes, 0, 0
        self._file = None if folder is None else (folder / PIXELS_FILE).open("ab", buffering=0)
        if self._file is not None:
            self.end = self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.to_disk()
        self._close()

    def to_disk(self) -> None:
        """Sync; call this before writing an index that describes the content."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def append(self, image: Pixels) -> int:
        """Offset of the appended pixels; NOT_STORED beyond the limit, NO_ROOM if the disk is full."""
        if self.end + image.nbytes > self.max_bytes:
            return NOT_STORED
        if self._file is None or self.folder is None:
            return NO_ROOM
        looks = self._images % LOOK_EVERY == 0
        if (looks and room(self.folder) < image.nbytes) or not self._write(image):
            warn_full(self.folder, self.max_bytes)
            with suppress(OSError):
                self._file.truncate(self.end)  # no index points beyond this yet
            self._close()
            return NO_ROOM
        self._images += 1
        start, self.end = self.end, self.end + image.nbytes
        return start

    def _write(self, image: Pixels) -> bool:
        data, written = memoryview(np.ascontiguousarray(image).data).cast("B"), 0
        try:
            while self._file is not None and written < len(data):
                written += self._file.write(data[written:]) or 0
        except OSError as error:
            if not is_full(error):
                raise
            return False
        return True

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def warn_full(folder: Path, max_bytes: int) -> None:
    """Log what a full disk means for training, and what to do."""
    log.warning(
        "%s: no space is left there for decoded training images (makd.cache_gb = %.3g): the others are decoded in "
        "every epoch. %s",
        folder,
        max_bytes / disk_cache.GIB,
        disk_cache.HOW_TO_CLEAN,
    )
