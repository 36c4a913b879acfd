"""Workers that die before they are up: replaced a few times, because a machine may be to blame, and then no more.

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
LOOK_SECONDS = 3 * SIGN_SECONDS


class WorkersDoNotStart(UserError):
    """Worker after worker died while it loaded its model."""


class Starts:
    """The starts of a stage's workers that have not come to an end, over all of its machines.

    Args:
        signs: of the stage; they hold the count.
        name: of the stage.
        limits: longest waits.
        at_once: workers that may be starting at the same time.
    """

    def __init__(self, signs: Signs, name: str, limits: Limits, at_once: int) -> None:
        self._signs, self._name, self._limits, self._at_once = signs, name, limits, at_once

    @staticmethod
    def most(at_once: int) -> int:
        """Starts without a single success after which there will be no other."""
        return TRIES + at_once - 1

    def start(self, load: Callable[[], Worker], watchdog: Watchdog) -> Worker | UserError:
        """The loaded worker, or why none can be loaded; after any other death the process ends and may be replaced."""
        while len(begun := self._signs.starts()) >= self.most(self._at_once):
            if self._others_sign():
                continue
            words = self._signs.all_words()
            said = f"the last one said: {words[-1]}" if words else "what they said is in Ray's log files"
            return WorkersDoNotStart(
                f"{self._name}: {len(begun)} workers died one after the other while they started; {said}. Rows that "
                "are done are kept; mend the cause and give the same command again"
            )
        self._signs.start_begun(f"{time.time():020.6f}-{os.getpid()}")
        what = f"{self._name}, the start of a worker"
        try:
            with watchdog.over(what, self._limits.start_minutes, "cluster.limits.start_minutes"):
                worker = load()
        except UserError as error:
            return error  # another worker would be refused alike
        except Exception as error:
            watchdog.end(f"{what}: {type(error).__name__}: {error}", error)
        self._signs.start_succeeded()
        return worker

    def _others_sign(self) -> bool:
        """Whether any worker that works or starts signs, looked at for half a minute; the signs of dead ones stay."""
        before = self._signs.all_alive()
        time.sleep(LOOK_SECONDS)
        return self._signs.all_alive() != before
