"""What lies in a stage's folder beside its table while it is computed; gone when the table is finished."""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

from cluster.heartbeat import beating, leave
from fgvr import storage, tables

log = logging.getLogger(__name__)


CLOCK = "clock.json"
"""Seconds so far; cluster.stage_files."""
RETRYING = "retrying.json"
"""The manifest of a finished table whose failed rows are tried again."""
PLAN = "plan.json"
PARTS = "parts.json"
"""How many rows each part file holds, from the moment the table is begun."""
BEGUN = "begun.json"
"""Which environments have worked on the table, under which limits; cluster.begun."""
IDS = "ids.int64"
"""Image ids of a row-parallel stage, 8 little-endian bytes each; cluster.parts."""
TOO_MANY = "too_many.json"
"""Counts and examples of the failed rows for which a stage stopped whose parts do not tell them in their footers."""
PROGRESS = "progress.json"
"""Last metrics of a training, in its folder; cluster.progress."""
TRAINING = "training"
"""The folder of a training's checkpoints; of a table whose failed rows are tried again with the attempt behind it."""
_TRAININGS = re.compile(rf"{TRAINING}(-\d+)?")


def training_name(attempt: int) -> str:
    """The folder of a stage's training: a retry may have more images than the training that is finished there."""
    return f"{TRAINING}-{attempt}" if attempt else TRAINING


def finished(folder: str, manifest: str = tables.MANIFEST) -> tables.Table | None:
    """The table in a stage's folder, by this manifest; None where there is none."""
    try:
        return tables.Table.load(folder, manifest)
    except (FileNotFoundError, NotADirectoryError):
        return None


def clear_left(folder: str) -> None:
    """Remove from a finished table's folder what only its computation needed, checkpoints of all sessions included.

    Models that stay are copies beside them. A session that was killed between the manifest and this leaves it to the
    next one.
    """
    files, folders = storage.list_entries(folder)
    for name in (CLOCK, PLAN, PARTS, BEGUN, IDS, RETRYING, TOO_MANY):
        if name in files:
            storage.remove(storage.join(folder, name))
    for name in folders:
        if _TRAININGS.fullmatch(name):
            storage.remove(storage.join(folder, name))


@dataclass(frozen=True)
class Plan:
    """What a stage set out to do, so that what is there can be told as a share of it.

    Attributes:
        rows: of a row-parallel stage's table.
        rows_per_part: rows of every part but the last.
        training: name of the training's folder, in a stage that trains.
        epochs: of the whole training; None where that is not known.
    """

    rows: int | None = None
    rows_per_part: int = 1
    training: str | None = None
    epochs: float | None = None

    @property
    def parts(self) -> int:
        """Part files of the whole table."""
        return 0 if self.rows is None else -(-self.rows // self.rows_per_part)

    def rows_of(self, part: int) -> int:
        """Rows that a part holds."""
        return max(0, min(self.rows_per_part, (self.rows or 0) - part * self.rows_per_part))

    def write(self, folder: str) -> None:
        """Leave it in the stage's folder."""
        storage.write_bytes(storage.join(folder, PLAN), json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, folder: str) -> Self | None:
        """The plan of the stage in `folder`; None where it left none."""
        try:
            return cls(**json.loads(storage.read_bytes(storage.join(folder, PLAN))))
        except FileNotFoundError:
            return None


def rows_per_part(folder: str, name: str, wanted: int) -> int:
    """How many rows each part of the table in `folder` holds: as it was begun, or `wanted` where this begins it.

    Which rows lie in which file must not change between two sessions, whatever the config says in the second one; of
    two that begin at once, the first one's size is that of both.

    Args:
        folder: the table's.
        name: the table's, for the console.
        wanted: by the config.
    """
    if (size := _recorded(folder)) is None:
        begun = json.dumps({"rows_per_part": _of_finished(folder) or wanted}).encode()
        storage.create_bytes(storage.join(folder, PARTS), begun)
        size = _recorded(folder) or wanted
    if size != wanted:
        log.info(
            "%s: goes on with %s rows a file, as it was begun; the config's %s are for tables that begin",
            name,
            f"{size:,}",
            f"{wanted:,}",
        )
    return size


def begun_rows_per_part(folder: str) -> int | None:
    """How many rows each part of the table in `folder` holds; None where none was begun there."""
    return _recorded(folder) or _of_finished(folder)


def _recorded(folder: str) -> int | None:
    try:
        return int(json.loads(storage.read_bytes(storage.join(folder, PARTS)))["rows_per_part"])
    except FileNotFoundError:
        return None


def _of_finished(folder: str) -> int | None:
    """Of a finished table whose failed rows are tried again."""
    table = finished(folder, RETRYING)
    return None if table is None else table.rows_per_part


# The seconds of a stage over all its sessions: a run may be killed and go on a day later.

BEAT = 30.0
"""Seconds between two writings: what is lost at most when a session is killed."""
LAST_SECONDS = 5.0


class StageClock:
    """Counts while a stage is computed, and writes down in its folder how long it has taken so far.

    After an error, or a kill, the next session goes on from there; the idle time between them is not counted.
    """

    def __init__(self, folder: str, beat: float = BEAT) -> None:
        self._file = storage.join(folder, CLOCK)
        self._earlier = _read(self._file)
        self._start = time.monotonic()
        self._beats = beating(self._write, beat, last=LAST_SECONDS)

    @property
    def seconds(self) -> float:
        """Of this session and those before it."""
        return self._earlier + time.monotonic() - self._start

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        self._beats.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._beats.__exit__(None, None, None)
        if kind is not None:
            self._write()

    def _write(self) -> None:
        leave(self._file, json.dumps({"seconds": self.seconds}).encode())


def _read(file: str) -> float:
    try:
        return float(json.loads(storage.read_bytes(file))["seconds"])
    except FileNotFoundError:
        return 0.0
