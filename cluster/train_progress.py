"""How a training goes, on the console of the process that started it.

Workers' own output goes to Ray's log files. So the first worker leaves its last metrics in a small file of the
training's folder, and a thread beside `trainer.fit()` reads it: the one place that both reach, on any storage.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from cluster import stage_progress
from cluster.progress import LOG_EVERY_SECONDS, duration
from cluster.stage_files import PROGRESS
from cluster.stage_progress import StageProgress
from fgvr import storage

LOCAL_SECONDS, REMOTE_SECONDS = 1.0, 10.0
SHOWN = ("loss", "train_top1", "train_accuracy", "validation_top1", "validation_loss", "images_per_second")


class ProgressWriter:
    """The worker's side: keeps the last metrics in the folder, but not more often than anyone looks."""

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
        """Epoch, the metrics that people look for, and the time left at the pace seen so far."""
        epoch = metrics.get("epoch", 0.0)
        if self.first is None:
            self.first = epoch, now
        whole = "" if self.epochs is None else f" of {self.epochs:g}"
        numbers = "".join(f", {name.replace('_', ' ')} {metrics[name]:.4g}" for name in SHOWN if name in metrics)
        done, seconds = epoch - self.first[0], now - self.first[1]
        if self.epochs is None or done <= 0:
            return f"{self.title}: epoch {epoch:.4g}{whole}{numbers}"
        left = duration(max(self.epochs - epoch, 0) * seconds / done)
        return f"{self.title}: epoch {epoch:.4g}{whole}{numbers}, {left} left"


@contextmanager
def shown(folder: str, title: str, epochs: float | None, stream: TextIO | None = None) -> Iterator[None]:
    """Show the progress that workers leave in `folder`: a rewritten line on a terminal, now and then one in a log."""
    stream = stream or sys.stderr
    storage.remove(storage.join(folder, PROGRESS))  # of an earlier session
    stop = threading.Event()
    line = TrainingLine(title, epochs)
    told = stage_progress.current()  # threads do not see it
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


def _watch(folder: str, line: TrainingLine, stream: TextIO, stop: threading.Event, told: StageProgress | None) -> None:
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
            stream.write(f"\r\x1b[K{text}" if terminal else f"{text}\n")
            stream.flush()


def _seconds(folder: str) -> float:
    return LOCAL_SECONDS if storage.is_local(folder) else REMOTE_SECONDS
