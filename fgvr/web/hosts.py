"""Hosts that do not answer: after some failures one after the other they are left alone for a while.

Else each of a thousand rows at a dead host costs all of its attempts, and who supplies a table of such rows holds a
worker for days. Held for each process, in bounded memory; the first request after the pause tries the host for all.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Final

MOST_HOSTS: Final = 4096
"""Remembered at once; the one that was asked longest ago is forgotten first."""
FIRST_PAUSE: Final = 10.0
"""Seconds; doubled with each request that fails after a pause."""


@dataclass
class _Trouble:
    """Failures of a host since its last answer.

    Attributes:
        times: one after the other.
        until: `time.monotonic` from which on it may be tried again.
        tried_by: the image that is finding out just now.
    """

    times: int = 0
    until: float = 0.0
    tried_by: object | None = None


class SilentHosts:
    """Which hosts did not answer lately.

    Args:
        most: failures one after the other that a host may have; 0: any number.
        longest_pause: seconds for which a host is left alone at most.
    """

    def __init__(self, most: int, longest_pause: float) -> None:
        self._most, self._longest = most, longest_pause
        self._troubles: OrderedDict[str, _Trouble] = OrderedDict()
        self._lock = Lock()

    def refused(self, host: str, image: object) -> tuple[int, float] | None:
        """Its failures and the seconds for which it is not asked; None: ask, and say how it went.

        Of several images after the pause one may ask, as often as it likes; the others are refused as long as it tries.
        """
        with self._lock:
            trouble = self._troubles.get(host)
            if trouble is None or not self._most or trouble.times < self._most:
                return None
            left = trouble.until - time.monotonic()
            if trouble.tried_by is image or (left <= 0 and trouble.tried_by is None):
                trouble.tried_by = image
                return None
            return trouble.times, max(0.0, left)

    def answered(self, host: str) -> None:
        """It gave an answer, good or bad."""
        with self._lock:
            self._troubles.pop(host, None)

    def failed(self, host: str) -> None:
        """It did not, in all of an image's time."""
        with self._lock:
            trouble = self._troubles.setdefault(host, _Trouble())
            self._troubles.move_to_end(host)
            trouble.times += 1
            trouble.tried_by = None
            pauses = trouble.times - self._most
            if pauses >= 0:
                trouble.until = time.monotonic() + min(FIRST_PAUSE * 2.0 ** min(pauses, 30), self._longest)
            while len(self._troubles) > MOST_HOSTS:
                self._troubles.popitem(last=False)

    def given_up(self, host: str, image: object) -> None:
        """The image ended without finding out, as at a redirect that is not allowed: another one may try."""
        with self._lock:
            trouble = self._troubles.get(host)
            if trouble is not None and trouble.tried_by is image:
                trouble.tried_by = None
