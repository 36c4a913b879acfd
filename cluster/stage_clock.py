"""The seconds of a stage over all its sessions: a run may be killed and go on a day later."""

from __future__ import annotations

import json
import time
from types import TracebackType
from typing import Self

from cluster.beats import beating, leave
from cluster.stage_files import CLOCK
from fgvr import storage

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
