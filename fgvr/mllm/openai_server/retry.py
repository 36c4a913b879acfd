"""Trying again: growing pauses with jitter; where a server asks to slow down, the pace at which all threads ask it."""

from __future__ import annotations

import math
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from fgvr import liveness

LONGEST_WISH = 300.0
"""Seconds that a server's Retry-After is followed at most; longer ones are tried earlier."""
_BEAT_SECONDS = 5.0
_SHORTEST_GAP = 0.002
_LONGEST_GAP = 60.0


class GaveUp(RuntimeError):
    """All tries failed; the message is the last reason."""


class NothingButWaiting(GaveUp):
    """The server told everybody to slow down, and answered nobody, for as long as is waited for it."""


class SharedPause:
    """The pace at which all threads ask one server.

    A server that asks to slow down is left alone for the longer of its own wish and a pause that doubles until it
    answers again. Behind the pause one request goes ahead, and only when it is answered do the others follow, a gap
    apart: sixteen threads that come back together would be told the same again. The gap doubles with every such pause
    and shrinks with every answer, so that it settles where the server's limit is.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._until = 0.0
        self._next = 0.0
        self._gap = 0.0
        self._told = 0  # pauses since the last answer
        self._first_told = 0.0
        self._begun = 0.0  # when the present pause was set: what was asked before it says nothing new
        self._probing = 0
        self._given_up = ""

    def keep(self) -> None:
        """Wait until a request may be sent; raises NothingButWaiting where somebody has given up meanwhile."""
        with self._condition:
            while (left := self._left()) > 0:
                if self._given_up:
                    raise NothingButWaiting(self._given_up)
                self._condition.wait(min(left, _BEAT_SECONDS))
                liveness.beat()  # a server's pauses are no hang: they have an end

    @contextmanager
    def turn(self) -> Iterator[float]:
        """Wait for a turn to send one request, and hold it in the block; gives the time at which it was sent."""
        with self._condition:
            self.keep()
            now = time.monotonic()
            self._next = now + self._gap * random.uniform(0.75, 1.25)
            probe = self._told > 0
            self._probing += probe
        try:
            yield now
        finally:
            if probe:
                with self._condition:
                    self._probing -= 1
                    self._condition.notify_all()

    def answered(self, asked: float) -> None:
        """The server did what it was asked at that time (`turn`), or said why not: it is not too busy."""
        with self._condition:
            if asked >= self._begun and (self._told or self._gap):
                self._told, self._given_up = 0, ""
                self._gap = self._gap * 0.94 if self._gap > _SHORTEST_GAP else 0.0
                self._condition.notify_all()

    def slow_down(self, wish: float | None, asked: float, *, first: float, longest: float) -> float:
        """The server asked to slow down.

        Args:
            wish: seconds that it named.
            asked: when the request was sent (`turn`).
            first: seconds of the first pause, where the wish is not longer; doubled for each further one.
            longest: at most.

        Returns:
            Seconds since it began to say so and answered nobody.
        """
        with self._condition:
            now = time.monotonic()
            wish = min(wish or 0.0, LONGEST_WISH)
            if not self._told:
                self._first_told = now
            if asked < self._begun:  # others were told so while this one was under way: nothing new
                self._until = max(self._until, now + wish)
                return now - self._first_told
            # Never shorter than the wish; some of it random, since other workers and programs wait for the same server.
            length = max(wish, min(longest, first * 2.0 ** min(self._told, 30))) * random.uniform(1.0, 1.25)
            if not self._told:
                self._gap = min(_LONGEST_GAP, max(2 * self._gap, length / 16))
            self._told += 1
            self._begun = now
            self._until = max(self._until, now + length)
            return now - self._first_told

    def give_up(self, words: str) -> None:
        """Nobody waits any longer for the end of the present pause."""
        with self._condition:
            self._given_up = words
            self._condition.notify_all()

    def _left(self) -> float:
        if self._told and self._probing:
            return _BEAT_SECONDS
        return max(self._until, self._next) - time.monotonic()


Result = TypeVar("Result")

MOST_UNREADABLE = 2
"""How often a reply that was paid for and cannot be used is asked for again, however many tries there are."""


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
