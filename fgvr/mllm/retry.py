"""Trying again: growing pauses with jitter, a server's own wish respected, and one pause for all threads."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from fgvr import liveness

Result = TypeVar("Result")

LONGEST_WISH = 300.0
"""Seconds that a server's Retry-After is followed at most; longer ones are tried earlier."""


class TryAgain(Exception):
    """Something that may succeed later; `after`: seconds that the server asks to wait, None when it says nothing."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class GaveUp(RuntimeError):
    """All tries failed; the message is the last reason."""


class SharedPause:
    """A pause that all threads keep: where one was told to slow down, the others would be told so, too."""

    def __init__(self) -> None:
        self._until = 0.0
        self._lock = threading.Lock()

    def extend(self, seconds: float) -> None:
        """No request for so long from now on."""
        with self._lock:
            self._until = max(self._until, time.monotonic() + seconds)

    def keep(self) -> None:
        """Wait until the pause is over."""
        while (left := self._until - time.monotonic()) > 0:
            time.sleep(left)


@dataclass(frozen=True)
class Retries:
    """How often and when something is tried again.

    Attributes:
        most: tries after the first.
        first_pause: seconds before the second try, doubled for each further one.
        longest_pause: seconds, where the server says nothing.
    """

    most: int
    first_pause: float = 1.0
    longest_pause: float = 60.0

    def run(self, work: Callable[[], Result], pause: SharedPause) -> Result:
        """The result of `work`, tried again whenever it raises TryAgain.

        Raises:
            GaveUp: after the last try.
        """
        for attempt in range(self.most + 1):
            pause.keep()
            liveness.beat()  # a server's long pauses are no hang: their number is limited
            try:
                return work()
            except TryAgain as wish:
                if attempt == self.most:
                    raise GaveUp(f"{wish} (after {attempt + 1} tries)") from wish
                if wish.after is not None:
                    pause.extend(min(wish.after, LONGEST_WISH))
                else:
                    # Half of it random: threads that failed together must not come back together.
                    length = min(self.longest_pause, self.first_pause * 2**attempt)
                    time.sleep(length * random.uniform(0.5, 1.0))
        raise AssertionError("unreachable")


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a reply asks to wait (`retry-after-ms`, `retry-after` in seconds or as a date); None: nothing."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        if value.strip().replace(".", "", 1).isdigit():
            return float(value)
        return max(0.0, (parsedate_to_datetime(value) - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError):  # a header that is neither
        return None
