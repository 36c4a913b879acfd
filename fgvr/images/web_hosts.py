"""Servers that keep others waiting: silent hosts are left alone, and a connection's reads end at a deadline."""

from __future__ import annotations

import ssl
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

import httpcore

# Hosts that do not answer: after some failures one after the other they are left alone for a while.
#
# Else each of a thousand rows at a dead host costs all of its attempts, and who supplies a table of such rows holds a
# worker for days. Held for each process, in bounded memory; the first request after the pause tries the host for all.

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


# A connection whose reads end at a deadline, however slowly the other side sends.
#
# A limit for each wait is not enough: a byte every twenty seconds is never late, and keeps a worker for ever.


class Deadline(threading.local):
    """When the image of the calling thread has to be there, on `time.monotonic`'s clock."""

    at = float("inf")

    @property
    def left(self) -> float:
        """Seconds until then; negative where it is over."""
        return self.at - time.monotonic()

    def within(self, timeout: float | None) -> float:
        """Seconds to wait at most; raises httpcore.ReadTimeout when there are none left."""
        left = self.left
        if left <= 0:
            raise httpcore.ReadTimeout("the time of the whole image is over")
        return left if timeout is None else min(timeout, left)


class TimedStream(httpcore.NetworkStream):
    """Passes everything on, with the deadline of the thread that asks."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        """`stream` with a `deadline` for each thread."""
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """As the stream; raises httpcore.ReadTimeout at the deadline, too."""
        return self._stream.read(max_bytes, self._deadline.within(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """As the stream."""
        self._stream.write(buffer, self._deadline.within(timeout))

    def close(self) -> None:
        """As the stream."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """The same connection, encrypted, with the same deadlines."""
        secure = self._stream.start_tls(ssl_context, server_hostname, self._deadline.within(timeout))
        return TimedStream(secure, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        """As the stream."""
        return self._stream.get_extra_info(info)
