"""The log of decisions in a run folder: appended to by any number of people, never edited.

On a disk it is `review/decisions.jsonl`: a writer holds the file's lock, appends whole lines and waits until they are
on the disk. In an object store, which cannot append, each batch is an object of its own below `review/decisions/`,
named after its time. A line that a crash cut off stays where it is: the next writer begins a new line after it, and
readers hand it out as damaged beside all others.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from fgvr import storage
from fgvr.review.audit_file import held_out
from fgvr.review.decisions import Decision, Decisions, fold
from fgvr.storage_errors import full_disk

FOLDER: Final = "review"
FILE: Final = "decisions.jsonl"
OBJECTS: Final = "decisions"


class DecisionLog:
    """Reads and appends; what was read once is not read again.

    Attributes:
        place: the folder `review` of the run.
    """

    def __init__(self, run_folder: str | Path) -> None:
        self.place = storage.join(storage.absolute(run_folder), FOLDER)
        self._local = storage.local_path(self.place) / FILE if storage.is_local(self.place) else None
        self._lock = threading.Lock()
        self._read: list[Decision] = []
        self._damaged: list[bytes] = []
        self._offset = 0
        self._seen: set[str] = set()

    def append(self, decisions: Sequence[Decision]) -> None:
        """Add decisions; when it returns they are on the disk or in the store.

        Raises:
            OSError: they could not be written; StorageFull where there is no room.
        """
        data = b"".join(each.to_line() for each in decisions)
        if not data:
            return
        if self._local is not None:
            self._append_local(self._local, data)
            return
        name = f"{decisions[0].at.replace(':', '')}-{uuid.uuid4().hex}.jsonl"
        if not storage.create_bytes(storage.join(self.place, OBJECTS, name), data):
            raise FileExistsError(f"{name} is there already")

    def read(self) -> tuple[list[Decision], tuple[bytes, ...]]:
        """All decisions in the order in which they hold, and the lines that cannot be read."""
        with self._lock:
            if self._local is not None:
                self._read_local(self._local)
            else:
                self._read_objects()
            return list(self._read), tuple(self._damaged)

    @staticmethod
    def _append_local(file: Path, data: bytes) -> None:
        with full_disk(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a+b") as log, _locked(log.fileno()):
                size = log.seek(0, os.SEEK_END)
                if size:
                    log.seek(size - 1)
                    if log.read(1) != b"\n":  # a crash cut the last line off: it stays, and must not spoil this one
                        data = b"\n" + data
                log.write(data)
                log.flush()
                os.fsync(log.fileno())
            if not size:  # the file is new: its name must survive a power cut, too
                folder = os.open(file.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)

    def _read_local(self, file: Path) -> None:
        try:
            with file.open("rb") as log:
                log.seek(self._offset)
                data = log.read()
        except FileNotFoundError:
            return
        # A line without its end may still be being written: it is read when something follows it.
        whole, newline, _ = data.rpartition(b"\n")
        if newline:
            self._take(whole.split(b"\n"))
            self._offset += len(whole) + 1

    def _read_objects(self) -> None:
        folder = storage.join(self.place, OBJECTS)
        new = [name for name in storage.list_files(folder, ".jsonl") if name not in self._seen]
        if not new:
            return
        for name in new:
            self._take(storage.read_bytes(storage.join(folder, name)).split(b"\n"))
            self._seen.add(name)
        # Objects of other writers may appear late: time decides, as far as their clocks agree.
        self._read.sort(key=lambda each: (each.at, each.id))

    def _take(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            if not line.strip():
                continue
            try:
                self._read.append(Decision.from_line(line))
            except (ValueError, RecursionError):
                self._damaged.append(line)


@contextlib.contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    """Hold the file's lock, for which other processes wait."""
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def effective_decisions(run_folder: str | Path) -> Decisions:
    """What holds after all decisions in a run folder, a local path or a URL: photos, aliases, what is held out.

    A run that nobody reviewed has none. See docs/review.md for what later stages may do with them.
    """
    log = DecisionLog(run_folder)
    decisions, damaged = log.read()
    return fold(decisions, held_out(log.place), damaged)
