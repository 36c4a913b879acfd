"""How many requests go out at once: in all, and to one host."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore, Lock


class Gates:
    """Semaphores for all requests and for each host's; those of hosts that nobody asks are forgotten."""

    def __init__(self, at_once: int, per_host: int) -> None:
        """At most `at_once` inside, and `per_host` of them for the same host."""
        self._all = BoundedSemaphore(at_once)
        self._per_host = per_host
        self._hosts: dict[str, tuple[BoundedSemaphore, int]] = {}  # with the number of threads inside or waiting
        self._lock = Lock()

    @contextmanager
    def enter(self, host: str) -> Iterator[float]:
        """Wait for a place; gives the seconds that it took.

        The host's comes first, so that threads waiting for a slow host hold no other's place.
        """
        begun = time.monotonic()
        with self._lock:
            gate, users = self._hosts.get(host, (BoundedSemaphore(self._per_host), 0))
            self._hosts[host] = (gate, users + 1)
        try:
            with gate, self._all:
                yield time.monotonic() - begun
        finally:
            with self._lock:
                gate, users = self._hosts.pop(host)
                if users > 1:
                    self._hosts[host] = (gate, users - 1)
