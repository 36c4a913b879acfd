"""A connection whose reads end at a deadline, however slowly the other side sends.

A limit for each wait is not enough: a byte every twenty seconds is never late, and keeps a worker for ever.
"""

from __future__ import annotations

import ssl
import threading
import time
from typing import Any

import httpcore


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
