"""A run's tracker without MLflow, which tests/cluster/test_tracking.py tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from fgvr.tables import Table


class NoTracking:
    """In place of MLflow: stages run, and only `finished` knows of it."""

    def __init__(self) -> None:
        self.finished: list[Table] = []

    @contextmanager
    def stage(self, name: str, decides: Any) -> Iterator[Self]:
        yield self

    def progress(self, numbers: dict[str, float]) -> None:
        """How far a stage is; nobody looks."""

    def finish(self, table: Table) -> None:
        self.finished.append(table)
