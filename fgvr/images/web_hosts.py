"""Slow servers: silent hosts are skipped for a while, and all reads of a connection end at a deadline."""

from __future__ import annotations

import ssl
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

import httpcore

# Silent hosts: after several consecutive failures a host is skipped for a while.
#
# Otherwise each of a thousand rows at a dead host would cost all its attempts, and such a table could block a worker
# for days. Kept per process, in bounded memory; the first request after the pause tests the host for all threads.

MOST_HOSTS: Final = 4096
"""How many hosts are remembered; the least recently requested one is dropped first."""
FIRST_PAUSE: Final = 10.0
"""Seconds of the first pause; doubled with each request that fails after a pause."""


@dataclass
class _Trouble:
    """Failures of a host since its last response.

    Attributes:
        times: number of consecutive failures.
        until: `time.monotonic` at which it may be tried again.
        tried_by: the image that is testing the host right now.
    """

    times: int = 0
    until: float = 0.0
    tried_by: object | None = None


class SilentHosts:
    """Which hosts did not respond lately.

    Args:
        most: consecutive failures after which a host is skipped; 0: it is never skipped.
        longest_pause: longest time in seconds for which a host is skipped.
    """

    def __init__(self, most: int, longest_pause: float) -> None:
        self._most, self._longest = most, longest_pause
        self._troubles: OrderedDict[str, _Trouble] = OrderedDict()
        self._lock = Lock()

    def refused(self, host: str, image: object) -> tuple[int, float] | None:
        """(number of failures, remaining seconds) of a skipped host; None: send the request, and report how it went.

        After the pause one image may send requests, as many as it likes; all others are refused while it does.
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
        """The host responded, with success or failure."""
        with self._lock:
            self._troubles.pop(host, None)

    def failed(self, host: str) -> None:
        """The host did not respond in all of an image's time."""
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
        """The image ended without a result for the host, as with a forbidden redirect: another image may test it."""
        with self._lock:
            trouble = self._troubles.get(host)
            if trouble is not None and trouble.tried_by is image:
                trouble.tried_by = None


# Connections whose reads end at a deadline, however slowly the server sends.
#
# A timeout per read is not enough: one byte every twenty seconds never times out, and would block a worker for ever.


class Deadline(threading.local):
    """When the current image of the calling thread must be finished, on `time.monotonic`'s clock."""

    at = float("inf")

    @property
    def left(self) -> float:
        """Seconds left; negative after the deadline."""
        return self.at - time.monotonic()

    def within(self, timeout: float | None) -> float:
        """Seconds to wait at most; raises httpcore.ReadTimeout if none are left."""
        left = self.left
        if left <= 0:
            raise httpcore.ReadTimeout("the time of the whole image is over")
        return left if timeout is None else min(timeout, left)


class TimedStream(httpcore.NetworkStream):
    """A wrapper around a stream that applies the deadline of the calling thread."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        """Wrap `stream`; `deadline` has one value per thread."""
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """As the stream's method; also raises httpcore.ReadTimeout at the deadline."""
        return self._stream.read(max_bytes, self._deadline.within(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """As the stream's method."""
        self._stream.write(buffer, self._deadline.within(timeout))

    def close(self) -> None:
        """As the stream's method."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """The same connection, encrypted, with the same deadline."""
        secure = self._stream.start_tls(ssl_context, server_hostname, self._deadline.within(timeout))
        return TimedStream(secure, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        """As the stream's method."""
        return self._stream.get_extra_info(info)
