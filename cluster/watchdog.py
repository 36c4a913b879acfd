"""Ends a worker that gets nothing done any more, so that another one gets its work: a hang becomes a death.

What counts is progress (`fgvr.liveness.beat`), not time: a part of a table may take hours. A hang inside a C library
that never lets Python run is ended, too, a minute later, by the timer of `faulthandler`.
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

from cluster.signs import SIGN_SECONDS, Signs
from fgvr import liveness

log = logging.getLogger(__name__)

GRACE_SECONDS = 60.0
"""After which `faulthandler` ends what the watchdog's own thread could not."""
STDERR = 2  # Ray redirects the descriptor to the worker's log file


@dataclass(frozen=True)
class Watched:
    """What is being done, how long nothing may be heard of it (seconds), and the config field that says so."""

    what: str
    seconds: float
    field: str


class Watchdog:
    """Watches over this process; one thread, which also leaves signs of life for the driver."""

    def __init__(self, signs: Signs) -> None:
        self._signs = signs
        self._watched: Watched | None = None
        self._lock = threading.Lock()
        self._begun = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextmanager
    def over(self, what: str, minutes: float, field: str) -> Iterator[None]:
        """The block may be silent for so many minutes.

        Args:
            what: is being done, for the last words.
            minutes: the limit.
            field: where the config has it.
        """
        liveness.beat()
        with self._lock:
            self._watched = Watched(what, minutes * 60, field)
            liveness.allow(minutes * 60)
            _arm(minutes * 60)  # here already: the block may keep the thread from ever running
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
        """Leave the process: that is what makes its pool, or Ray, start another one and give it the work."""
        log.critical("%s; this worker stops and is replaced", words, exc_info=error)
        try:
            self._signs.last_words(words)
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
                    f" = {watched.seconds / 60:g}{_worked_on()} (where it hung stands in the worker's log file)"
                )
            self._signs.alive(watched.what)
            threading.Event().wait(min(SIGN_SECONDS, watched.seconds / 4))


def _worked_on() -> str:
    """What was being done, for last words: the three things that were begun first, and how many there were."""
    under_way = liveness.under_way()
    if not under_way:
        return ""
    first = ", ".join(f"{what} for {seconds / 60:.1f} min" for what, seconds in under_way[:3])
    more = f" and {len(under_way) - 3} more" if len(under_way) > 3 else ""
    return f"; worked on: {first}{more}"


def _arm(seconds: float) -> None:
    """Set or reset the timer that needs no Python to end the process."""
    faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=STDERR)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine's or a GPU's memory was the cause: a worker that met it cannot be trusted any more."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's, without importing it
