"""The time of a modelled engine: requests that take seconds, a limited number of them at once."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable


class EngineClock:
    """Lets one thread feed an engine that works on `concurrency` requests at once, each as long as it takes.

    Nothing is computed: a request holds a place until its time is over, and who finds no place free sleeps until one
    is. Threads would show their own cost at hundreds of requests; a heap of end times does not.
    """

    def __init__(
        self,
        concurrency: int,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`now` and `sleep`: the world's clock, or a test's."""
        self._concurrency, self._now, self._sleep = concurrency, now, sleep
        self._ends: list[float] = []
        self.busy = 0.0
        """Seconds of all requests so far: over concurrency × wall time it is how much of the engine was used."""

    def begin(self, seconds: float) -> None:
        """Wait for a free place and hold it for so long from then on; returns at once when one is free."""
        if seconds <= 0:
            return
        start = self._now()
        if len(self._ends) == self._concurrency:
            end = heapq.heappop(self._ends)
            if end > start:
                self._sleep(end - start)
                start = end  # not the time at which the sleeper awoke: an engine's queue does not oversleep
        heapq.heappush(self._ends, start + seconds)
        self.busy += seconds

    def drain(self) -> None:
        """Wait until all requests are done."""
        if self._ends:
            self._sleep(max(0.0, max(self._ends) - self._now()))
        self._ends.clear()
