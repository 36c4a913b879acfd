"""Kills a worker that makes no progress any more, so that another one gets its work: a hang becomes a death.

What counts is progress (`fgvr.liveness.beat`), not time: a part of a table may take hours. If a C library hangs and
never lets Python run, the timer of `faulthandler` ends the process a minute later.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from cluster.heartbeat import BEAT_SECONDS, Heartbeats
from fgvr import liveness

log = logging.getLogger(__name__)

GRACE_SECONDS = 60.0
"""Further time after which `faulthandler` ends a process that the watchdog's own thread could not end."""
STDERR = 2  # Ray redirects the descriptor to the worker's log file


@dataclass(frozen=True)
class Watched:
    """A watched activity, how long it may be silent (seconds), and the config field that sets this."""

    what: str
    seconds: float
    field: str


class Watchdog:
    """Watches this process, in one thread that also sends heartbeats to the driver."""

    def __init__(self, heartbeats: Heartbeats) -> None:
        self._heartbeats = heartbeats
        self._watched: Watched | None = None
        self._lock = threading.Lock()
        self._begun = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextmanager
    def over(self, what: str, minutes: float, field: str) -> Iterator[None]:
        """Watch the block, which may be silent for `minutes`.

        Args:
            what: the activity, for the last words.
            minutes: the limit.
            field: config field of the limit.
        """
        liveness.beat()
        with self._lock:
            self._watched = Watched(what, minutes * 60, field)
            liveness.allow(minutes * 60)
            _arm(minutes * 60)  # armed here already, since the block may keep the thread from ever running
        self._begun.set()
        try:
            yield
        finally:
            with self._lock:
                self._watched = None
                liveness.allow(float("inf"))
                self._begun.clear()
                faulthandler.cancel_dump_traceback_later()

    def end(self, words: str, error: BaseException | None = None) -> NoReturn:
        """Exit the process, so that its pool, or Ray, starts another one and gives it the work."""
        log.critical("%s; this worker stops and is replaced", words, exc_info=error)
        try:
            self._heartbeats.last_words(words)
        finally:
            os._exit(1)

    def _watch(self) -> None:
        while True:
            self._begun.wait()
            with self._lock:
                watched = self._watched
                if watched is None:
                    continue
                silence = liveness.silence()
                _arm(max(0.0, watched.seconds - silence))
            if silence > watched.seconds:
                faulthandler.dump_traceback(file=STDERR)
                self.end(
                    f"{watched.what}: nothing was finished for {silence / 60:.1f} min, the limit is {watched.field}"
                    f" = {watched.seconds / 60:g}{_worked_on()} (the stack traces are in the worker's log file)"
                )
            self._heartbeats.alive(watched.what)
            threading.Event().wait(min(BEAT_SECONDS, watched.seconds / 4))


def _worked_on() -> str:
    """The current activities, for last words: the three oldest, and the total number."""
    under_way = liveness.under_way()
    if not under_way:
        return ""
    first = ", ".join(f"{what} for {seconds / 60:.1f} min" for what, seconds in under_way[:3])
    more = f" and {len(under_way) - 3} more" if len(under_way) > 3 else ""
    return f"; worked on: {first}{more}"


def _arm(seconds: float) -> None:
    """Set or reset the timer that can end the process without running Python."""
    faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=STDERR)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the machine or a GPU ran out of memory: such a worker cannot be trusted any more."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's, without importing it
