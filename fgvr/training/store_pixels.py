"""A store's file of pixels: it grows up to a bound, leaves something of the disk to others, survives a full one."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from fgvr import disk_cache
from fgvr.storage_faults import is_full
from fgvr.students.preprocess import Pixels
from fgvr.training.store_index import NO_ROOM, NOT_STORED, PIXELS_FILE

log = logging.getLogger(__name__)

FREE_SHARE, FREE_BYTES = 0.05, 2**30
"""Of the disk, or this much where that is less: what a store leaves free, for others write there, too."""
LOOK_EVERY = 64
"""Images between two looks at how much is free."""


def room(folder: Path) -> int:
    """Bytes that a store may still write to the disk of `folder`."""
    disk = shutil.disk_usage(folder)
    return disk.free - min(FREE_BYTES, int(FREE_SHARE * disk.total))


class PixelsFile:
    """A file that images are appended to; what is there stays as it is, under whoever reads it."""

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        """`folder`: of the store; None: nothing is kept."""
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
        """To be called before an index says what is in it."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def append(self, image: Pixels) -> int:
        """Where the pixels begin; NOT_STORED where they are beyond the bound, NO_ROOM where the disk is full."""
        if self.end + image.nbytes > self.max_bytes:
            return NOT_STORED
        if self._file is None or self.folder is None:
            return NO_ROOM
        looks = self._images % LOOK_EVERY == 0
        if (looks and room(self.folder) < image.nbytes) or not self._write(image):
            warn_full(self.folder, self.max_bytes)
            with suppress(OSError):
                self._file.truncate(self.end)  # nobody reads beyond it yet
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
    """Say what a full disk means for a training, and what to do."""
    log.warning(
        "%s: no space is left there for decoded training images (makd.cache_gb = %.3g): the others are decoded in "
        "every epoch. %s",
        folder,
        max_bytes / disk_cache.GIB,
        disk_cache.HOW_TO_CLEAN,
    )
