"""Row-parallel stages with one actor in this process in place of Ray's pool."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import pytest

from cluster import parts
from cluster.signs import Signs
from fgvr.config.run import Limits


class NoSigns(Signs):
    """Nobody looks for signs of life."""

    def alive(self, text: str) -> None:
        """Nobody is told."""

    def last_words(self, text: str) -> None:
        """Nobody is told."""

    def all_words(self) -> list[str]:
        return []

    @contextmanager
    def kept(self) -> Iterator[Self]:
        """Nothing is to be forgotten."""
        yield self

    def start_begun(self, name: str) -> None:
        """Not counted."""

    def starts(self) -> list[str]:
        return []

    def start_succeeded(self) -> None:
        """Not counted."""


def parts_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pending parts of `run_parts` go to one actor in this process."""

    def stream(job: Any, pending: list[int], finished: set[int]) -> Iterator[dict[str, Any]]:
        actor = parts._PartActor(job, NoSigns(), Limits())
        for number in pending:  # as Ray Data gives a block of one row, in NumPy's form
            batch = {"part": np.array([number]), "again": np.array([number in finished])}
            yield json.loads(actor(batch)["summary"][0])

    monkeypatch.setattr(parts, "_stream", stream)
    monkeypatch.setattr(parts, "limit_threads", lambda _: None)
    monkeypatch.setattr(parts, "check_capacity", lambda *_: None)
