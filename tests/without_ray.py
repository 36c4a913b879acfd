"""Row-parallel stages with one actor in this process in place of Ray's pool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import pytest
from ray import cloudpickle

from cluster import budget, part_actor, parts
from cluster.heartbeat import Heartbeats
from cluster.pool import Part
from fgvr.config.run import Limits


class NoHeartbeats(Heartbeats):
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


def parts_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pending parts of `run_parts` go to one actor in this process."""

    def stream(job: Any, pending: list[int], again: dict[int, int], rows: int) -> Iterator[dict[str, Any]]:
        actor = part_actor.PartActor(NoHeartbeats(), Limits(), 1)
        refused = actor.take(job.name, cloudpickle.dumps(job))
        assert refused is None, refused
        gate = budget.gate(rows, job.workers.rows_per_part, again)
        for number in pending:
            gate.check(Part(number))
            summary = actor.compute(number, number in again)
            gate.done(summary)
            yield summary

    monkeypatch.setattr(parts, "_stream", stream)
    monkeypatch.setattr(part_actor, "limit_threads", lambda _: None)
    monkeypatch.setattr(parts, "check_capacity", lambda *_: None)
