"""The progress of a running stage: reported to Prometheus after every part, and to MLflow every half minute.

A running stage has one `StageProgress`, which `current()` returns anywhere in the stage's code: it receives the parts
of a row-parallel stage and the epochs of a training run.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from cluster.heartbeat import beating
from cluster.metrics import TOKENS, stage_metrics

EVERY_SECONDS = 30.0
LAST_SECONDS = 5.0


class StageProgress:
    """Counts of a stage; thread-safe.

    Args:
        name: name of the stage.
        seconds: returns how long it has taken so far.
    """

    def __init__(self, name: str, seconds: Callable[[], float]) -> None:
        self.name = name
        self._seconds = seconds
        self._lock = threading.Lock()
        self._state: dict[str, float] = {}
        self._failures: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._metrics = stage_metrics(name)
        self._came = time.monotonic()

    def begin(
        self, wanted: int, *, rows: int, failures: Mapping[str, int], tokens: Mapping[str, int], parts: int
    ) -> None:
        """Start a row-parallel stage of `wanted` rows, of which earlier sessions computed `rows`; `parts` are left."""
        with self._lock:
            self._state |= {"rows_wanted": wanted, "rows": rows, "parts_waiting": parts}
            self._failures, self._tokens = Counter(failures), Counter(tokens)
            self._came = time.monotonic()
        self.publish()

    def part(self, rows: int, failures: Mapping[str, int], tokens: Mapping[str, int]) -> None:
        """Count a finished part, of which some rows may be from earlier sessions."""
        with self._lock:
            self._state["rows"] = self._state.get("rows", 0) + rows
            self._state["parts_waiting"] = self._state.get("parts_waiting", 1) - 1
            self._failures.update(failures)
            self._tokens.update(tokens)
            now = time.monotonic()
            took, self._came = now - self._came, now
        if self._metrics is not None:
            self._metrics.part_took(took)
        self.publish()

    def computed(self, rows: int, failures: Mapping[str, int], tokens: Mapping[str, int]) -> None:
        """Count rows computed by this session."""
        if self._metrics is not None:
            self._metrics.computed(rows, failures, tokens)

    def trained(self, metrics: Mapping[str, float], epochs: float | None) -> None:
        """Take a report of the training run."""
        with self._lock:
            self._state |= {"epoch": metrics.get("epoch", 0.0)} | ({} if epochs is None else {"epochs": epochs})
        self.publish()

    def alarmed(self, alarms: int) -> None:
        """Say how many tests of new photos are alarms."""
        with self._lock:
            self._state["drift_alarms"] = float(alarms)
        self.publish()

    def finished(self, rows: int, failures: Mapping[str, int], metrics: Mapping[str, float]) -> None:
        """End the stage; rows that were not reported as parts are counted now."""
        with self._lock:
            tokens = {name: int(value) for name, value in metrics.items() if name.endswith(TOKENS)}
            told = "rows" in self._state
            self._state |= {"rows": rows, "rows_wanted": rows, "parts_waiting": 0}
            self._failures, self._tokens = Counter(failures), Counter(tokens)
        if not told:
            self.computed(rows, failures, tokens)
        self.publish()

    def publish(self) -> None:
        """Publish the state for Prometheus."""
        if self._metrics is not None:
            self._metrics.state(self.numbers())

    def numbers(self) -> dict[str, float]:
        """The state by name: rows, rows_wanted, parts_waiting, failed_rows, epoch, seconds, tokens, failures."""
        with self._lock:
            numbers = dict(self._state) | {"seconds": self._seconds()}
            if "rows" in numbers:
                numbers["failed_rows"] = self._failures.total()
            numbers |= {f"failed.{reason}": float(count) for reason, count in self._failures.items()}
            return numbers | {name: float(count) for name, count in self._tokens.items()}


_current: ContextVar[StageProgress | None] = ContextVar("stage progress", default=None)


def current() -> StageProgress | None:
    """The progress of the running stage; None outside of a stage."""
    return _current.get()


@contextmanager
def told(
    progress: StageProgress, tell: Callable[[dict[str, float]], Any], every: float | None = None
) -> Iterator[StageProgress]:
    """Make it the current progress, and pass its numbers to `tell` every `every` seconds, on a thread of its own."""

    def beat() -> None:
        progress.publish()
        tell(progress.numbers())

    before = _current.set(progress)
    try:
        with beating(beat, EVERY_SECONDS if every is None else every, last=LAST_SECONDS):
            yield progress
    finally:
        _current.reset(before)
