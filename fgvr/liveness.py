"""Heartbeats of this process, which tell long work from a stall.

Whatever works through many items calls `beat()` after each of them (an image read, an engine step, a batch). The
watchdog reads `silence()`, the seconds since the last heartbeat, and declares through `allow` how long a silence may
last. A single long operation stays below that (`longest_wait`) and names itself by `doing`, so that a stall has a name.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

_last = time.monotonic()
_allowed = float("inf")
_under_way: dict[int, tuple[float, str]] = {}  # call number → (start time, what is being done)
_numbers = itertools.count()
SHARE = 0.5
"""Share of the allowed silence that a single wait may take: other waits may come on top of it."""


def beat() -> None:
    """Record a heartbeat: some piece of work was just finished."""
    global _last  # noqa: PLW0603  # a process has one pulse
    _last = time.monotonic()


def silence() -> float:
    """Seconds since the last heartbeat from any thread."""
    return time.monotonic() - _last


def allow(seconds: float) -> None:
    """From now on this process may be silent for this many seconds; inf if nobody watches it."""
    global _allowed  # noqa: PLW0603  # as above
    _allowed = seconds


def longest_wait(seconds: float) -> float:
    """`seconds`, or less if so long a wait could be mistaken for a stall."""
    return min(seconds, SHARE * _allowed)


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Name what the block does; reported if the process is found silent."""
    number = next(_numbers)
    _under_way[number] = (time.monotonic(), what)
    try:
        yield
    finally:
        del _under_way[number]


def under_way() -> list[tuple[str, float]]:
    """What all threads are doing right now, and for how many seconds; the longest first."""
    found = list(_under_way.values())  # one atomic copy: other threads add and remove entries
    now = time.monotonic()
    return [(what, now - since) for since, what in sorted(found)]
