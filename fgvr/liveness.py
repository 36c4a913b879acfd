"""When this process last got something done: what tells long work from a hang.

Whatever works through many things says `beat()` for each of them (an image read, a step of an engine, a batch); who
watches over the process asks for the `silence()` since then.
"""

from __future__ import annotations

import time

_last = time.monotonic()


def beat() -> None:
    """Something was finished just now."""
    global _last  # noqa: PLW0603  # a process has one pulse
    _last = time.monotonic()


def silence() -> float:
    """Seconds since the last `beat`, of whatever thread."""
    return time.monotonic() - _last
