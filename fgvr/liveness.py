"""When this process last got something done: what tells long work from a hang.

Whatever works through many things says `beat()` for each of them (an image read, a step of an engine, a batch); who
watches over the process asks for the `silence()` since then, and says by `allow` how long one may last. What may take
long on its own stays below that (`longest_wait`), and says by `doing` what it is, so that a hang has a name.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

_last = time.monotonic()
_allowed = float("inf")
_under_way: dict[int, tuple[float, str]] = {}  # number of the call → since when, what
_numbers = itertools.count()
SHARE = 0.5
"""Of the silence that is allowed, what one wait may take: others may come on top of it."""


def beat() -> None:
    """Something was finished just now."""
    global _last  # noqa: PLW0603  # a process has one pulse
    _last = time.monotonic()


def silence() -> float:
    """Seconds since the last `beat`, of whatever thread."""
    return time.monotonic() - _last


def allow(seconds: float) -> None:
    """From now on this process may be silent for so long; inf: nobody watches."""
    global _allowed  # noqa: PLW0603  # as above
    _allowed = seconds


def longest_wait(seconds: float) -> float:
    """`seconds`, or less where so long a wait could be taken for a hang."""
    return min(seconds, SHARE * _allowed)


@contextmanager
def doing(what: str) -> Iterator[None]:
    """The block does this; said by whoever finds the process silent."""
    number = next(_numbers)
    _under_way[number] = (time.monotonic(), what)
    try:
        yield
    finally:
        del _under_way[number]


def under_way() -> list[tuple[str, float]]:
    """What is being done now, of all threads, and for how many seconds; the longest first."""
    found = list(_under_way.values())  # at one go: other threads add and remove
    now = time.monotonic()
    return [(what, now - since) for since, what in sorted(found)]
