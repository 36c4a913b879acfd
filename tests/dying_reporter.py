"""A training whose worker dies after an epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fgvr.training.reporter import LocalReporter


class Killed(Exception):
    """Stands for a worker that dies."""


class DiesAfter(LocalReporter):
    """Reports, keeps the checkpoint, and raises `Killed` when an epoch, counted from 1, has ended."""

    def __init__(self, folder: Path, epoch: int) -> None:
        super().__init__(folder)
        self.last_epoch = epoch

    def report(self, metrics: dict[str, float], save: Callable[[Path], None] | None = None) -> None:
        super().report(metrics, save)
        if metrics["epoch"] == self.last_epoch:
            raise Killed
