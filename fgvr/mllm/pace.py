"""The pace at which all threads ask one server, where it asks to slow down."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

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
