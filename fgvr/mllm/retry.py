"""Trying again: growing pauses with jitter; where a server asks to slow down, by time instead of tries."""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from fgvr import liveness
from fgvr.mllm.pace import GaveUp, NothingButWaiting, SharedPause

Result = TypeVar("Result")

MOST_UNREADABLE = 2
"""How often a reply that was paid for and cannot be used is asked for again, however many tries there are."""
_BEAT_SECONDS = 5.0


class TryAgain(Exception):
    """Something that may succeed later.

    Attributes:
        after: seconds that the server asks to wait, None when it says nothing.
        limited: the server asks to slow down; that is no try, since any number of threads may be told so.
        paid: there was a reply, which cost as much as a good one.
    """

    def __init__(
        self, reason: str, after: float | None = None, *, limited: bool | None = None, paid: bool = False
    ) -> None:
        """`limited`: by default, where the server says how long to wait."""
        super().__init__(reason)
        self.after = after
        self.limited = after is not None if limited is None else limited
        self.paid = paid
        self.asked = self.silence = 0.0  # when it was asked, and for how long the server had answered nobody


@dataclass(frozen=True)
class Retries:
    """How often and when something is tried again.

    Attributes:
        most: tries after the first; 0: none, whatever the server says.
        first_pause: seconds before the second try, doubled for each further one.
        longest_pause: seconds, where the server says nothing.
        patience: seconds that a server which asks to slow down, and answers nobody, is waited for.
    """

    most: int
    first_pause: float = 1.0
    longest_pause: float = 60.0
    patience: float = 900.0

    def run(
        self,
        work: Callable[[], Result],
        pause: SharedPause,
        gate: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Result:
        """The result of `work`, tried again whenever it raises TryAgain.

        Where the server asks to slow down, time is counted instead of tries; and a request that alone is told so for
        all that time, while others are answered, fails after as many tries as others have.

        Args:
            work: one try.
            pause: of all who ask the same server.
            gate: entered for each try, before its turn is waited for.

        Raises:
            GaveUp: after the last try; NothingButWaiting where nobody was answered in all that time.
        """
        tries = counted = unreadable = told = 0
        first_told = math.inf
        while True:
            try:
                with gate():
                    return self._try(work, pause)
            except TryAgain as again:
                wish = again
            tries += 1
            unreadable += wish.paid
            over = GaveUp(f"{wish} (after {tries} tries)")
            if not wish.limited:
                counted += 1
                if counted > self.most or unreadable > MOST_UNREADABLE:
                    raise over from wish
                # Half of it random: threads that failed together must not come back together.
                length = min(self.longest_pause, self.first_pause * 2.0 ** min(counted - 1, 30))
                _sleep(length * random.uniform(0.5, 1.0))
                continue
            told += 1
            first_told = min(first_told, wish.asked)
            if wish.silence > self.patience:
                pause.give_up(str(over))
                raise NothingButWaiting(str(over)) from wish
            if not self.most or (told > self.most and time.monotonic() - first_told > self.patience):
                raise over from wish

    def _try(self, work: Callable[[], Result], pause: SharedPause) -> Result:
        with pause.turn() as asked:
            liveness.beat()
            try:
                result = work()
            except TryAgain as wish:
                wish.asked = asked
                if wish.limited:
                    limits = {"first": self.first_pause, "longest": self.longest_pause}
                    wish.silence = pause.slow_down(wish.after, asked, **limits)
                raise
            except BaseException:
                pause.answered(asked)
                raise
            pause.answered(asked)
            return result


def _sleep(seconds: float) -> None:
    """As `time.sleep`, with signs of life."""
    while seconds > 0:
        time.sleep(min(seconds, _BEAT_SECONDS))
        seconds -= _BEAT_SECONDS
        liveness.beat()


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a reply asks to wait (`retry-after-ms`, `retry-after` in seconds or as a date); None: nothing."""
    try:
        if not math.isnan(milliseconds := float(headers["retry-after-ms"])):
            return max(0.0, milliseconds / 1000)
    except (KeyError, ValueError):
        pass
    given = headers.get("retry-after", "")
    if (seconds := re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*s?\s*", given)) is not None:
        return float(seconds[1])
    try:
        date = parsedate_to_datetime(given)
        date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)  # HTTP's are, also in C's form without one
        return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError, OverflowError):  # neither a number nor a date
        return None
