"""Progress of a stage on the console: one rewritten line on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from typing import TextIO

LOG_EVERY_SECONDS = 60.0
TERMINAL_EVERY_SECONDS = 0.2


class Progress:
    """Rows done of a total, rate and time left.

    Args:
        name: what is counted, e.g. the stage.
        total: rows in all.
        done: rows that were there before (a resumed stage); they do not count for the rate.
        stream: where to write.
    """

    def __init__(self, name: str, total: int, done: int = 0, stream: TextIO | None = None) -> None:
        self.name, self.total, self.before = name, total, done
        self.stream = stream or sys.stderr
        self.now, self.failed = 0, 0
        self.start = time.monotonic()
        self.terminal = self.stream.isatty()
        self.shown = self.start if not self.terminal else 0.0

    def update(self, rows: int, failed: int = 0) -> None:
        """Count `rows` more; `failed` is the total of failed rows so far."""
        self.now += rows
        self.failed = failed
        every = TERMINAL_EVERY_SECONDS if self.terminal else LOG_EVERY_SECONDS
        if time.monotonic() - self.shown >= every:
            self._show()

    def line(self) -> str:
        """The state in words."""
        seconds = max(time.monotonic() - self.start, 1e-9)
        rate = self.now / seconds
        done = self.before + self.now
        text = f"{self.name}: {done:,} of {self.total:,} rows"
        if self.now:
            text += f", {rate:,.1f} rows/s, {duration((self.total - done) / rate)} left"
        return text + (f", {self.failed:,} failed" if self.failed else "")

    def close(self) -> None:
        """Show the final state, where anything was done."""
        if self.now and self.terminal:
            self._show()
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    def _show(self) -> None:
        self.shown = time.monotonic()
        self.stream.write(f"\r\x1b[K{self.line()}" if self.terminal else f"{self.line()}\n")
        self.stream.flush()


def duration(seconds: float) -> str:
    """A duration for people: 42 s, 7 min 5 s, 3 h 12 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
