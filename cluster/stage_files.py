"""Files beside a table in its stage's folder while it is computed; removed when the table is finished."""

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
"""Seconds so far; written by cluster.stage_files."""
RETRYING = "retrying.json"
"""The manifest of a finished table whose failed rows are being retried."""
PLAN = "plan.json"
PARTS = "parts.json"
"""Rows per part file, from the start of the table."""
BEGUN = "begun.json"
"""Environments and limits of the sessions that worked on the table; written by cluster.begun."""
IDS = "ids.int64"
"""Image ids of a row-parallel stage, 8 little-endian bytes each; written by cluster.parts."""
TOO_MANY = "too_many.json"
"""Counts and examples of the failed rows that stopped a stage, if its parts do not have them in their footers."""
PROGRESS = "progress.json"
"""Latest metrics of a training run, in its folder; written by cluster.progress."""
TRAINING = "training"
"""The folder of a training run's checkpoints; in a retry of failed rows, followed by the attempt."""
_TRAININGS = re.compile(rf"{TRAINING}(-\d+)?")

BEAT = 30.0
"""Seconds between two writes: the most that is lost when a session is killed."""
LAST_SECONDS = 5.0


def training_name(attempt: int) -> str:
    """The folder of a stage's training run: a retry gets its own, since it may train on more images."""
    return f"{TRAINING}-{attempt}" if attempt else TRAINING


def finished(folder: str, manifest: str = tables.MANIFEST) -> tables.Table | None:
    """The table in a stage's folder according to this manifest; None where there is none."""
    try:
        return tables.Table.load(folder, manifest)
    except (FileNotFoundError, NotADirectoryError):
        return None


def clear_left(folder: str) -> None:
    """Remove from a finished table's folder what only its computation needed, including checkpoints of all sessions.

    Models that are kept are copies elsewhere in the folder. A session that is killed between the manifest and this
    leaves it to the next one.
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
    """The planned size of a stage, from which its progress is computed.

    Attributes:
        rows: rows of a row-parallel stage's table.
        rows_per_part: rows of every part except the last.
        training: name of the training folder, in a training stage.
        epochs: epochs of the whole training run; None where unknown.
    """

    rows: int | None = None
    rows_per_part: int = 1
    training: str | None = None
    epochs: float | None = None

    @property
    def parts(self) -> int:
        """Number of part files of the whole table."""
        return 0 if self.rows is None else -(-self.rows // self.rows_per_part)

    def rows_of(self, part: int) -> int:
        """Number of rows in a part."""
        return max(0, min(self.rows_per_part, (self.rows or 0) - part * self.rows_per_part))

    def write(self, folder: str) -> None:
        """Write the plan to the stage's folder."""
        storage.write_bytes(storage.join(folder, PLAN), json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, folder: str) -> Self | None:
        """The plan of the stage in `folder`; None where there is none."""
        try:
            return cls(**json.loads(storage.read_bytes(storage.join(folder, PLAN))))
        except FileNotFoundError:
            return None


def rows_per_part(folder: str, name: str, wanted: int) -> int:
    """Rows per part of the table in `folder`: as recorded, or `wanted` for a new table.

    The split of rows into files must not change between two sessions, whatever the config of the second one says. If
    two sessions start at once, both use the size of the first.

    Args:
        folder: the folder of the table.
        name: the name of the table, for the console.
        wanted: the size in the config.
    """
    if (size := _recorded(folder)) is None:
        begun = json.dumps({"rows_per_part": _of_finished(folder) or wanted}).encode()
        storage.create_bytes(storage.join(folder, PARTS), begun)
        size = _recorded(folder) or wanted
    if size != wanted:
        log.info(
            "%s: goes on with %s rows per file, as it was begun; the config's %s apply to new tables only",
            name,
            f"{size:,}",
            f"{wanted:,}",
        )
    return size


def begun_rows_per_part(folder: str) -> int | None:
    """The recorded rows per part of the table in `folder`; None where there is no record."""
    return _recorded(folder) or _of_finished(folder)


def _recorded(folder: str) -> int | None:
    try:
        return int(json.loads(storage.read_bytes(storage.join(folder, PARTS)))["rows_per_part"])
    except FileNotFoundError:
        return None


def _of_finished(folder: str) -> int | None:
    """Rows per part of a finished table whose failed rows are retried."""
    table = finished(folder, RETRYING)
    return None if table is None else table.rows_per_part


# The seconds of a stage over all its sessions: a run may be killed and resumed a day later.


class StageClock:
    """Measures how long a stage has been computed so far, and saves this in its folder.

    After an error or a kill, the next session continues the count; the idle time in between is not counted.
    """

    def __init__(self, folder: str, beat: float = BEAT) -> None:
        self._file = storage.join(folder, CLOCK)
        self._earlier = _read(self._file)
        self._start = time.monotonic()
        self._beats = beating(self._write, beat, last=LAST_SECONDS)

    @property
    def seconds(self) -> float:
        """Seconds of this session and all earlier ones."""
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
