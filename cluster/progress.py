"""Progress of a stage on the console: one rewritten line on a terminal, a line now and then in a log file.

Workers' own output goes to Ray's log files. So the first worker of a training leaves its last metrics in a small file
of the training's folder, and a thread of the driver reads it: the one place that both reach, on any storage.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TextIO

from cluster.stage_files import PROGRESS
from fgvr import storage

LOG_EVERY_SECONDS = 60.0
TERMINAL_EVERY_SECONDS = 0.2
LOCAL_SECONDS, REMOTE_SECONDS = 1.0, 10.0
"""Between two looks at what the workers of a training left, on a local disk and elsewhere."""
SHOWN = ("train_top1", "train_accuracy", "validation_top1", "images_per_second")
"""Of a training's metrics, beside its losses."""


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


class ProgressWriter:
    """A training worker's side: keeps the last metrics in the folder, but not more often than anyone looks."""

    def __init__(self, folder: str) -> None:
        self.uri = storage.join(folder, PROGRESS)
        self.every = _seconds(folder)
        self.written = -self.every

    def write(self, metrics: Mapping[str, float]) -> None:
        """Leave the metrics for the driver."""
        if time.monotonic() - self.written >= self.every:
            self.written = time.monotonic()
            storage.write_bytes(self.uri, json.dumps(dict(metrics)).encode())


class TrainingLine:
    """The state of a training in words.

    Args:
        title: what is trained.
        epochs: of the whole training; None: unknown, then no time left is told.
    """

    def __init__(self, title: str, epochs: float | None) -> None:
        self.title, self.epochs = title, epochs
        self.first: tuple[float, float] | None = None  # (epoch, time) first seen: a resumed training starts late

    def text(self, metrics: Mapping[str, float], now: float) -> str:
        """Epoch, the time left at the pace seen so far, all losses by their names, and how many answers are right."""
        epoch = metrics.get("epoch", 0.0)
        if self.first is None:
            self.first = epoch, now
        text = f"{self.title}: epoch {epoch:.4g}" + ("" if self.epochs is None else f" of {self.epochs:g}")
        done, seconds = epoch - self.first[0], now - self.first[1]
        if self.epochs is not None and done > 0:
            text += f", {duration(max(self.epochs - epoch, 0) * seconds / done)} left"
        shown = [name for name in metrics if "loss" in name.split("_")]
        shown += [name for name in SHOWN if name in metrics]
        return text + "".join(f", {name.replace('_', ' ')} {metrics[name]:.4g}" for name in shown)


class Told(Protocol):
    """Who else hears of a training (`cluster.stage_progress.StageProgress`)."""

    def trained(self, metrics: Mapping[str, float], epochs: float | None) -> None:
        """It reported."""
        ...


@contextmanager
def training_shown(
    folder: str, title: str, epochs: float | None, stream: TextIO | None = None, told: Told | None = None
) -> Iterator[None]:
    """Show the progress that a training's workers leave in `folder`, and tell it on."""
    stream = stream or sys.stderr
    storage.remove(storage.join(folder, PROGRESS))  # of an earlier session
    stop = threading.Event()
    line = TrainingLine(title, epochs)
    thread = threading.Thread(
        target=_watch, args=(folder, line, stream, stop, told), name="training progress", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=REMOTE_SECONDS)
        if stream.isatty():
            stream.write("\r\x1b[K")
            stream.flush()


def _watch(folder: str, line: TrainingLine, stream: TextIO, stop: threading.Event, told: Told | None) -> None:
    terminal = stream.isatty()
    logged = time.monotonic()
    seen: dict[str, float] = {}
    while not stop.wait(_seconds(folder)):
        try:
            metrics = json.loads(storage.read_bytes(storage.join(folder, PROGRESS)))
        except OSError:
            continue  # not there yet, or the network: progress is worth no error
        if told is not None:
            told.trained(metrics, line.epochs)
        now = time.monotonic()
        text = line.text(metrics, now)
        if metrics != seen and (terminal or now - logged >= LOG_EVERY_SECONDS):
            seen, logged = metrics, now
            # A line that wraps is not rewritten as a whole: what is cut off stands in history.json.
            room = shutil.get_terminal_size().columns - 1
            stream.write(f"\r\x1b[K{text[:room]}" if terminal else f"{text}\n")
            stream.flush()


def _seconds(folder: str) -> float:
    return LOCAL_SECONDS if storage.is_local(folder) else REMOTE_SECONDS
