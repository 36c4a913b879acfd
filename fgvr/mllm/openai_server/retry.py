"""Retries with growing pauses and jitter, and a common request rate for all threads when a server is overloaded."""

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
"""Longest Retry-After, in seconds, that is followed; if a server asks for more, the retry comes earlier."""
_BEAT_SECONDS = 5.0
_SHORTEST_GAP = 0.002
_LONGEST_GAP = 60.0

Result = TypeVar("Result")
MOST_UNREADABLE = 2
"""How often a paid but unusable reply is requested again, however many retries are allowed."""


class GaveUp(RuntimeError):
    """All retries failed; the message is the last reason."""


class NothingButWaiting(GaveUp):
    """The server kept telling everybody to slow down, without a single answer, for the longest time allowed."""


class SharedPause:
    """The rate at which all threads send requests to one server.

    After a request to slow down, nothing is sent for the longer of the server's own wish and a pause that doubles until
    it answers again. After the pause one request goes first, and only when it is answered do the others follow, with a
    gap between them: sixteen threads that return together would be told to slow down again. The gap doubles with every
    such pause and shrinks with every answer, so that it settles at the server's limit.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._until = 0.0
        self._next = 0.0
        self._gap = 0.0
        self._told = 0  # number of pauses since the last answer
        self._first_told = 0.0
        self._begun = 0.0  # start of the current pause: earlier requests say nothing new
        self._probing = 0
        self._given_up = ""

    def keep(self) -> None:
        """Wait until a request may be sent; raises NothingButWaiting if another thread has given up meanwhile."""
        with self._condition:
            while (left := self._left()) > 0:
                if self._given_up:
                    raise NothingButWaiting(self._given_up)
                self._condition.wait(min(left, _BEAT_SECONDS))
                liveness.beat()  # heartbeat: pauses are bounded and no stall

    @contextmanager
    def turn(self) -> Iterator[float]:
        """Wait for a turn to send one request, and hold it in the block; yields the time at which it was sent."""
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
        """The server answered a request sent at time `asked` (`turn`), or rejected it: it is not overloaded."""
        with self._condition:
            if asked >= self._begun and (self._told or self._gap):
                self._told, self._given_up = 0, ""
                self._gap = self._gap * 0.94 if self._gap > _SHORTEST_GAP else 0.0
                self._condition.notify_all()

    def slow_down(self, wish: float | None, asked: float, *, first: float, longest: float) -> float:
        """The server said to slow down.

        Args:
            wish: seconds that it asked for.
            asked: when the request was sent (`turn`).
            first: length of the first pause in seconds, unless the wish is longer; doubled for each further one.
            longest: longest pause.

        Returns:
            Seconds for which it has been saying so without answering any request.
        """
        with self._condition:
            now = time.monotonic()
            wish = min(wish or 0.0, LONGEST_WISH)
            if not self._told:
                self._first_told = now
            if asked < self._begun:  # another thread paused while this request was in flight
                self._until = max(self._until, now + wish)
                return now - self._first_told
            # Never shorter than the wish; partly random, since other workers and programs wait for the same server.
            length = max(wish, min(longest, first * 2.0 ** min(self._told, 30))) * random.uniform(1.0, 1.25)
            if not self._told:
                self._gap = min(_LONGEST_GAP, max(2 * self._gap, length / 16))
            self._told += 1
            self._begun = now
            self._until = max(self._until, now + length)
            return now - self._first_told

    def give_up(self, words: str) -> None:
        """Let nobody wait any longer for the end of the current pause."""
        with self._condition:
            self._given_up = words
            self._condition.notify_all()

    def _left(self) -> float:
        if self._told and self._probing:
            return _BEAT_SECONDS
        return max(self._until, self._next) - time.monotonic()


class TryAgain(Exception):
    """Something failed that may succeed later.

    Attributes:
        after: seconds that the server asks to wait; None if it does not say.
        limited: the server asks to slow down; this does not count as a retry, since all threads may be told so at once.
        paid: there was a reply, which cost as much as a good one.
    """

    def __init__(
        self, reason: str, after: float | None = None, *, limited: bool | None = None, paid: bool = False
    ) -> None:
        """`limited`: by default, whether the server says how long to wait."""
        super().__init__(reason)
        self.after = after
        self.limited = after is not None if limited is None else limited
        self.paid = paid
        self.asked = self.silence = 0.0  # when it was sent; for how long the server had not answered


@dataclass(frozen=True)
class Retries:
    """How often and when something is retried.

    Attributes:
        most: number of retries; 0: none, whatever the server says.
        first_pause: seconds before the first retry, doubled for each further one.
        longest_pause: longest pause in seconds, unless the server states one.
        patience: how many seconds to wait for a server that asks to slow down and answers no request.
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
        """The result of `work`, retried whenever it raises TryAgain.

        While the server asks to slow down, elapsed time counts instead of retries; a request that alone is told so for
        all that time, while others are answered, fails after the usual number of retries.

        Args:
            work: one attempt.
            pause: shared by all threads that use the server.
            gate: entered for each attempt, before waiting for its turn.

        Raises:
            GaveUp: after the last retry; NothingButWaiting if the server answered no request in all that time.
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
                # Half of the pause is random: threads that failed together must not return together.
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
    """Like `time.sleep`, with heartbeats."""
    while seconds > 0:
        time.sleep(min(seconds, _BEAT_SECONDS))
        seconds -= _BEAT_SECONDS
        liveness.beat()


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a reply asks to wait (`retry-after-ms`, `retry-after` in seconds or as a date); None if none."""
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
        date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)  # HTTP dates are UTC, also in asctime form
        return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError, OverflowError):  # neither a number nor a date
        return None
