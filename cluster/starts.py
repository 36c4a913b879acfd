"""Workers that die before they are up: replaced a few times, because a machine may be to blame, and then no more.

What counts are deaths, not the size that a pool may grow to: starts that are still under way together with this one are
left out, so that a pool grows at once where models can be loaded, and three deaths are enough where they cannot.

While others give signs of life it may be one machine alone: the next worker that Ray puts there tries nothing and keeps
its place, until another one has started somewhere, or nobody signs any more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

from cluster.signs import SIGN_SECONDS, Signs
from cluster.watchdog import Watchdog
from fgvr.config.run import Limits
from fgvr.errors import UserError

Worker = TypeVar("Worker")

TRIES = 3
LOOKS = 3
LOOK_SECONDS = LOOKS * SIGN_SECONDS


class WorkersDoNotStart(UserError):
    """Worker after worker died while it loaded its model."""


class Starts:
    """The starts of a stage's workers that have not come to an end, over all of its machines.

    Args:
        signs: of the stage; they hold the count.
        name: of the stage.
        limits: longest waits.
        at_once: workers that the pool begins with, all at the same time: its `min_workers`, or as many as it has parts.
    """

    def __init__(self, signs: Signs, name: str, limits: Limits, at_once: int) -> None:
        self._signs, self._name, self._limits, self._at_once = signs, name, limits, at_once

    @staticmethod
    def most(at_once: int) -> int:
        """Deaths without a single success after which nothing is tried: those that began together count as one try."""
        return TRIES + at_once - 1

    def start(self, load: Callable[[], Worker], watchdog: Watchdog) -> Worker | UserError:
        """The loaded worker, or why none can be loaded; after any other death the process ends and may be replaced."""
        most = self.most(self._at_once)
        while len(self._signs.starts()) >= most:
            signing = self._signing(most)
            dead = self._dead(signing)
            if len(dead) < most:
                break  # one has come up, or the others are under way as this one will be
            if not signing:
                return self._given_up(len(dead))
        self._signs.start_begun(f"{time.time():020.6f}-{os.uname().nodename}-{os.getpid()}")
        what = f"{self._name}, the start of a worker"
        try:
            with watchdog.over(what, self._limits.start_minutes, "cluster.limits.start_minutes"):
                worker = load()
        except UserError as error:
            return error  # another worker would be refused alike
        except Exception as error:
            watchdog.end(f"{what}: {why(error)}", error)
        self._signs.start_succeeded()
        return worker

    def _given_up(self, deaths: int) -> WorkersDoNotStart:
        words = self._signs.all_words()
        said = f"the last one said: {words[-1]}" if words else "what they said is in Ray's log files"
        return WorkersDoNotStart(
            f"{self._name}: {deaths} workers died one after the other while they started, and none came up; {said}. "
            "Rows that are done are kept; mend the cause and give the same command again"
        )

    def _dead(self, signing: set[str]) -> list[str]:
        """Starts since the last one that succeeded whose worker does not sign."""
        return [name for name in self._signs.starts() if _worker_of(name) not in signing]

    def _signing(self, most: int) -> set[str]:
        """Workers (node-pid) that sign, at work or while they start; looked at for half a minute.

        The signs of dead ones stay, and do not change. Where fewer than `most` starts are in doubt it ends before.
        """
        before, signing = self._signs.all_alive(), set[str]()
        for _ in range(LOOKS):
            time.sleep(LOOK_SECONDS / LOOKS)
            now = self._signs.all_alive()
            signing |= {_last_part(key) for key, sign in now.items() if before.get(key) != sign}
            if len(self._dead(signing)) < most:
                break
        return signing


def _worker_of(start: str) -> str:
    """The worker (node-pid) of a start's name, which begins with its time."""
    return _last_part(start).partition("-")[2]


def _last_part(key: str) -> str:
    return key.rpartition("/")[2]


def why(error: BaseException) -> str:
    """An error in a line, with the first of those that led to it: engines wrap what was the matter."""
    first: BaseException = error
    while (cause := first.__cause__ or (None if first.__suppress_context__ else first.__context__)) is not None:
        first = cause
    said = f"{type(error).__name__}: {error}"
    if first is error or str(first) in said:
        return said
    return f"{said} (caused by {type(first).__name__}: {first})"
