"""Writing to the reply cache: one segment per process and folder; appended on a disk, batched on an object store."""

from __future__ import annotations

import atexit
import logging
import os
import tempfile
import threading
import time
import uuid
from pathlib import Path

from fgvr import storage
from fgvr.mllm.openai_server.cache_segments import (
    INDEX,
    RECORD,
    SEGMENT,
    Found,
    body_of,
    header,
    record,
    scan,
    short,
    write_index,
)
from fgvr.storage_errors import full_disk

log = logging.getLogger(__name__)

SEGMENT_REPLIES = 2**17
BATCH_REPLIES, BATCH_BYTES, BATCH_SECONDS = 256, 2**22, 10.0
"""Limits of an object store's batch, and how long a reply waits in it; a process that is killed loses this much."""
SYNC_SECONDS = 1.0
"""A power failure loses the replies of this many seconds; a process that dies loses none."""

_writers: dict[tuple[int, str], Writer] = {}
_making = threading.Lock()


def writer_of(folder: str) -> Writer:
    """This process's writer for a folder, shared by all its clients."""
    with _making:
        key = os.getpid(), folder
        if key not in _writers:
            _writers[key] = LocalWriter(folder) if storage.is_local(folder) else RemoteWriter(folder)
        return _writers[key]


@atexit.register
def flush_all() -> None:
    """Send what waits in batches: a process that ends by itself, or behind this, loses no reply."""
    for (process, folder), writer in list(_writers.items()):
        if process == os.getpid():
            try:
                writer.flush()
            except Exception as error:  # of an object store's library; where more is kept the next time sends it, too
                log.warning("replies could not be kept in %s: %s", folder, error)


class Writer:
    """Appends to a file, and knows its content; see LocalWriter and RemoteWriter."""

    def __init__(self, folder: str) -> None:
        """Writes nothing yet."""
        self.folder = folder
        self.finished = 0  # number of finished segments
        self._lock = threading.RLock()
        self._begin()

    def _begin(self) -> None:
        self.name, self.word = f"{time.time_ns():020d}-{uuid.uuid4().hex[:12]}", os.urandom(8)
        self.places: dict[bytes, int] = {}
        self._file: int | None = None

    def _open(self) -> int:
        raise NotImplementedError

    def keep(self, key: bytes, body: bytes) -> None:
        """Append a reply; raises OSError."""
        with self._lock:
            if self._file is None or self._gone():
                self._close()
                self._begin()
                file = self._open()
                try:
                    self._write(file, header(self.word))
                except OSError:
                    os.close(file)
                    raise
                self._file = file
            place = os.lseek(self._file, 0, os.SEEK_END)
            self._write(self._file, record(self.word, key, body))
            self.places[key] = place
            self._kept(RECORD.size + len(body))
            if len(self.places) >= SEGMENT_REPLIES:
                self._finish()
                self._close()
                self._begin()
                self.finished += 1

    def find(self, key: bytes) -> bytes | None:
        """A reply in the segment that is being written."""
        with self._lock:
            place = self.places.get(key)
            if place is None or self._file is None or self._gone():
                return None
            head = os.pread(self._file, RECORD.size, place)
            if len(head) < RECORD.size:
                return None
            return body_of(head + os.pread(self._file, RECORD.unpack(head)[2], place + RECORD.size), key)

    def flush(self) -> None:
        """Make everything that was cached so far safe."""

    def _gone(self) -> bool:
        """Whether somebody removed the file that this process writes."""
        return False

    def _kept(self, size: int) -> None:
        """Called when `size` bytes were appended."""

    def _finish(self) -> None:
        """Finish the segment: the next reply begins another one."""
        raise NotImplementedError

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, file: int, data: bytes) -> None:
        """Append; if the disk is full, part of the data may be written, which readers skip."""
        view = memoryview(data)
        with full_disk(self._disk()):
            while view:
                view = view[os.write(file, view) :]

    def _disk(self) -> Path:
        """The path of the segment's file."""
        return storage.local_path(self.folder) if storage.is_local(self.folder) else Path(tempfile.gettempdir())

    def _index(self) -> Found:
        places = list(self.places.values())
        return Found([short(key) for key in self.places], places, 0)

    def _uri(self, suffix: str, name: str | None = None) -> str:
        return storage.join(self.folder, f"{name or self.name}{suffix}")


class LocalWriter(Writer):
    """Writes to a disk, which workers on other machines may share: they read what was appended so far."""

    def _open(self) -> int:
        path = storage.local_path(self._uri(SEGMENT))
        with full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._synced = time.monotonic()
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def _gone(self) -> bool:
        return self._file is not None and os.fstat(self._file).st_nlink == 0

    def _kept(self, size: int) -> None:
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Sync the file to disk."""
        with self._lock:
            if self._file is not None:
                os.fsync(self._file)
                self._synced = time.monotonic()

    def _finish(self) -> None:
        self.flush()
        write_index(self._uri(INDEX), self._index().index())


class RemoteWriter(Writer):
    """Writes to an object store, which cannot append: batches, replaced by one object when the segment is finished.

    Until then the segment also lies in a temporary file on this machine.
    """

    def _begin(self) -> None:
        super()._begin()
        self._batches: list[str] = []
        self._sent = 0
        self._waiting = 0
        self._timer: threading.Timer | None = None

    def _open(self) -> int:
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())

    def _kept(self, size: int) -> None:
        self._waiting += 1
        end = os.lseek(self._file, 0, os.SEEK_END) if self._file is not None else 0
        if self._waiting >= BATCH_REPLIES or end - self._sent >= BATCH_BYTES:
            self.flush()
        elif self._timer is None:
            atexit.unregister(flush_all)  # s3fs closes its connections at exit: this must run before
            atexit.register(flush_all)
            self._timer = threading.Timer(BATCH_SECONDS, self._late)
            self._timer.daemon = True
            self._timer.start()

    def _late(self) -> None:
        try:
            self.flush()
        except Exception as error:  # errors of an object store's library; the next batch retries
            log.warning("replies could not be kept in %s yet: %s", self.folder, error)
            self._timer = None

    def flush(self) -> None:
        """Send the waiting batch."""
        with self._lock:
            if self._file is None or not self._waiting:
                return
            start = max(self._sent, len(header(self.word)))
            end = os.lseek(self._file, 0, os.SEEK_END)
            name = f"{self.name}-{len(self._batches):06d}"
            self._put(name, header(self.word) + _read(self._file, start, end))
            self._batches.append(name)
            self._sent, self._waiting = end, 0
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _put(self, name: str, data: bytes) -> None:
        storage.write_bytes(self._uri(SEGMENT, name), data)
        write_index(self._uri(INDEX, name), scan(data).index())  # a segment counts as soon as it has an index

    def _finish(self) -> None:
        if self._file is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._put(self.name, _read(self._file, 0, os.lseek(self._file, 0, os.SEEK_END)))
        for name in self._batches:  # readers now find these replies in the finished segment
            for suffix in (INDEX, SEGMENT):
                storage.remove(self._uri(suffix, name))


def _read(file: int, start: int, end: int) -> bytes:
    parts = []
    while start < end and (part := os.pread(file, end - start, start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts)
