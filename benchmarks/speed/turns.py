"""Training runs in one process that take turns, one epoch each, so that other load affects all of them alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.harness import Cost, cpu_seconds
from fgvr.training.reporter import LocalReporter

Loop = Callable[["Turn"], object]


class Turn(LocalReporter):
    """A training run that pauses in each of its reports until another epoch is requested.

    Args:
        loop: a training loop; it runs in a thread of its own and reports after each epoch.
        folder: folder for checkpoints; none are written or found.
        device: device of the training run.
    """

    def __init__(self, loop: Loop, folder: Path, device: str = "cpu") -> None:
        super().__init__(folder, device)
        self._may, self._has = threading.Semaphore(0), threading.Semaphore(0)
        self._pool = ThreadPoolExecutor(1)
        self._run = self._pool.submit(self._whole, loop)

    def epoch(self) -> Cost:
        """The cost of one more epoch; the first one includes its preparations."""
        cpu, wall = cpu_seconds(), time.monotonic()
        self._may.release()
        self._has.acquire()
        cost = Cost(cpu_seconds() - cpu, time.monotonic() - wall)
        if self._run.done():
            self._run.result()  # raises the error that ended it
        return cost

    def finish(self) -> None:
        """Let it end after its last epoch."""
        self._may.release()
        self._run.result()
        self._pool.shutdown()

    def report(self, metrics: dict[str, float], save: Callable[[Path], None] | None = None) -> None:
        """Called by the training loop after each epoch."""
        self.history.append(dict(metrics))
        self._has.release()
        self._may.acquire()

    def _whole(self, loop: Loop) -> None:
        self._may.acquire()
        try:
            loop(self)
        finally:
            self._has.release()
