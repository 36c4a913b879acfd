"""Progress of a stage on the console: one rewritten line on a terminal, or an occasional line in a log file.

The output of workers goes to Ray's log files. So the first worker of a training run writes its latest metrics to a
small file in the training folder, the only place that it shares with the driver on any storage, and a thread of the
driver reads that file.
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
"""Seconds between two reads of that file, on a local disk and elsewhere."""
SHOWN = ("train_top1", "train_accuracy", "validation_top1", "images_per_second")
"""Metrics of a training run that are shown beside its losses."""


class Progress:
    """Rows done out of a total, with rate and remaining time.

    Args:
        name: what is counted, e.g. the stage.
        total: total number of rows.
        done: rows of earlier sessions (a resumed stage); they do not count for the rate.
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
        """Count `rows` further rows; `failed` is the total number of failed rows so far."""
        self.now += rows
        self.failed = failed
        every = TERMINAL_EVERY_SECONDS if self.terminal else LOG_EVERY_SECONDS
        if time.monotonic() - self.shown >= every:
            self._show()

    def line(self) -> str:
        """The state as text."""
        seconds = max(time.monotonic() - self.start, 1e-9)
        rate = self.now / seconds
        done = self.before + self.now
        text = f"{self.name}: {done:,} of {self.total:,} rows"
        if self.now:
            text += f", {rate:,.1f} rows/s, {duration((self.total - done) / rate)} left"
        return text + (f", {self.failed:,} failed" if self.failed else "")

    def close(self) -> None:
        """Show the final state, if anything was done."""
        if self.now and self.terminal:
            self._show()
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    def _show(self) -> None:
        self.shown = time.monotonic()
        self.stream.write(f"\r\x1b[K{self.line()}" if self.terminal else f"{self.line()}\n")
        self.stream.flush()


def duration(seconds: float) -> str:
    """A readable duration: 42 s, 7 min 5 s, 3 h 12 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class ProgressWriter:
    """The training worker's side: writes the latest metrics to the folder, no more often than the driver reads them."""

    def __init__(self, folder: str) -> None:
        self.uri = storage.join(folder, PROGRESS)
        self.every = _seconds(folder)
        self.written = -self.every

    def write(self, metrics: Mapping[str, float]) -> None:
        """Write the metrics for the driver."""
        if time.monotonic() - self.written >= self.every:
            self.written = time.monotonic()
            storage.write_bytes(self.uri, json.dumps(dict(metrics)).encode())


class TrainingLine:
    """The state of a training run as text.

    Args:
        title: what is trained.
        epochs: number of epochs of the whole training run; None: unknown, and no remaining time is shown.
    """

    def __init__(self, title: str, epochs: float | None) -> None:
        self.title, self.epochs = title, epochs
        self.first: tuple[float, float] | None = None  # (epoch, time) first seen: a resumed run starts late

    def text(self, metrics: Mapping[str, float], now: float) -> str:
        """Epoch, the remaining time at the pace so far, all losses by name, and the accuracies."""
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
    """Another receiver of a training run's progress (`cluster.stage_progress.StageProgress`)."""

    def trained(self, metrics: Mapping[str, float], epochs: float | None) -> None:
        """Take a report of the training run."""
        ...


@contextmanager
def training_shown(
    folder: str, title: str, epochs: float | None, stream: TextIO | None = None, told: Told | None = None
) -> Iterator[None]:
    """Show the progress that the training workers write to `folder`, and pass it on to `told`."""
    stream = stream or sys.stderr
    storage.remove(storage.join(folder, PROGRESS))  # left by an earlier session
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
            continue  # not written yet, or a network fault: progress must not raise errors
        if told is not None:
            told.trained(metrics, line.epochs)
        now = time.monotonic()
        text = line.text(metrics, now)
        if metrics != seen and (terminal or now - logged >= LOG_EVERY_SECONDS):
            seen, logged = metrics, now
            # A terminal cannot rewrite a wrapped line, so cut it; history.json has the rest.
            room = shutil.get_terminal_size().columns - 1
            stream.write(f"\r\x1b[K{text[:room]}" if terminal else f"{text}\n")
            stream.flush()


def _seconds(folder: str) -> float:
    return LOCAL_SECONDS if storage.is_local(folder) else REMOTE_SECONDS
