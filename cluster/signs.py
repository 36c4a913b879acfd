"""Signs of life and last words of workers, where the driver finds them: in the key-value store of Ray's head.

A driver that waits for workers cannot see whether one of them computes for an hour or none has been given a place.
So a worker signs every few seconds that it is alive and getting on, and one that has to end says why.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from cluster.ray_private import Board

log = logging.getLogger(__name__)

BOARD = Board(b"fgvr")
SIGN_SECONDS = 10.0
"""Between two signs of a worker that does something, at most."""


@dataclass(frozen=True)
class Signs:
    """One wait's place in the store; made by the driver, travels to the workers.

    Attributes:
        place: prefix of all its keys; it begins with that of the session's Ray job.
    """

    place: str = field(default_factory=lambda: f"{_of_this_job()}{uuid.uuid4().hex}")

    def alive(self, text: str) -> None:
        """A worker's sign of life; differs from the last one by its time. One that does not get through is left out."""
        from ray.exceptions import RayError

        try:
            self._put(f"alive/{os.uname().nodename}-{os.getpid()}", f"{time.time():.1f} {text}")
        except (RayError, RuntimeError, OSError) as error:  # the next one may get through
            log.warning("no sign of life to Ray's head: %s", error)

    def last_words(self, text: str) -> None:
        """Why this worker ends."""
        self._put(f"words/{time.time():020.6f}-{os.getpid()}", text)

    def all_alive(self) -> dict[str, str]:
        """The last sign of every worker so far."""
        return self._all("alive/")

    def all_words(self) -> list[str]:
        """Last words, the oldest first."""
        return [text for _, text in sorted(self._all("words/").items())]

    @contextmanager
    def kept(self) -> Iterator[Self]:
        """They are forgotten when the wait ends, however it ends."""
        try:
            yield self
        finally:
            self.forget()

    def forget(self) -> None:
        """All of them."""
        _forget(f"{self.place}/")

    def _put(self, name: str, text: str) -> None:
        BOARD.put(f"{self.place}/{name}", text)

    def _keys(self, kind: str) -> list[str]:
        return BOARD.keys(f"{self.place}/{kind}")

    def _all(self, kind: str) -> dict[str, str]:
        return BOARD.texts(self._keys(kind))


def forget_all() -> None:
    """Forget all signs of this session: a worker that was just ending may have left one behind a wait's end."""
    _forget(_of_this_job())


def _of_this_job() -> str:
    """Prefix of a driver's signs, the same in all processes of its Ray job."""
    import ray

    job = ray.get_runtime_context().get_job_id() if ray.is_initialized() else "none"
    return f"signs/{job}/"


def _forget(prefix: str) -> None:
    """Where the head is gone they are, too: that is no reason to hide why a wait ended."""
    from ray.exceptions import RayError

    try:
        BOARD.delete(prefix)
    except (RayError, RuntimeError, OSError, ValueError) as error:
        log.debug("signs at %s could not be removed: %s", prefix, error)
