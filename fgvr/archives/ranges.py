"""Parts of a file, on a disk or in an object store."""

from __future__ import annotations

import os
from typing import Final

from fgvr import storage

_LARGE: Final = 8 * 2**20
_SMALL: Final = 64 * 2**10
_NEAR: Final = 2**20
"""Bytes between two questions below which it is quicker to read on than to ask again."""


def file_size(uri: str) -> int:
    """Bytes; raises FileNotFoundError, and OSError for what is no regular file."""
    if storage.is_local(uri):
        with storage.open_regular(storage.local_path(uri)) as file:
            return os.fstat(file.fileno()).st_size
    fs, path = storage.resolve(uri)
    fs.invalidate_cache(path)
    return int(fs.info(path)["size"])


def read_range(uri: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop), fewer where the file ends; raises FileNotFoundError or OSError."""
    if storage.is_local(uri):
        with storage.open_regular(storage.local_path(uri)) as file:
            file.seek(start)
            return file.read(stop - start)
    fs, path = storage.resolve(uri)
    return storage.cat_within(fs, path, start, stop)


class Window:
    """Small parts of a file, asked for in rising order; of a remote one more is fetched than is asked for.

    Where parts lie close together, 8 MiB come at a time; where large gaps lie between them, 64 KiB.
    """

    def __init__(self, uri: str) -> None:
        """Raises FileNotFoundError, and OSError for what is no regular file."""
        self.uri, self.size = uri, file_size(uri)
        self._local = storage.is_local(uri)
        self._start, self._data = 0, b""
        self._asked = 0

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer where the file ends."""
        stop = min(start + length, self.size)
        if stop <= start:
            return b""
        if start < self._start or stop > self._start + len(self._data):
            ahead = 4096 if self._local else _LARGE if start - self._asked < _NEAR else _SMALL
            self._data = read_range(self.uri, start, min(max(stop, start + ahead), self.size))
            self._start = start
        self._asked = start
        return self._data[start - self._start : stop - self._start]
