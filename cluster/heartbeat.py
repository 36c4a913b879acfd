"""Periodic work on a thread of its own: heartbeats, progress, the seconds of a stage."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from cluster.ray_private import Board
from fgvr import spending, storage

log = logging.getLogger(__name__)

BOARD = Board(b"fgvr")
BEAT_SECONDS = 10.0
"""Longest time between two heartbeats of a worker that makes progress."""


def leave(uri: str, data: bytes) -> bool:
    """Write a heartbeat or another small file, which may fail without harm; returns whether it was written."""
    try:
        storage.write_bytes(uri, data)
    # Libraries of object stores raise errors without a common base class; the next attempt may get through.
    except Exception as error:
        log.debug("%s could not be written: %s", uri, error)
        return False
    return True


@contextmanager
def beating(do: Callable[[], object], seconds: float, *, last: float | None = None) -> Iterator[None]:
    """Call `do` every `seconds`, on a thread of its own, until the block ends.

    Args:
        do: the function; it does not see the block's context variables.
        seconds: from the end of one call to the start of the next.
        last: seconds to wait for a call that is running when the block ends, so that a hanging store or server does not
            hold up the work; None: until it returns. The thread is a daemon: it keeps no process alive.
    """
    stop = threading.Event()

    def beats() -> None:
        while not stop.wait(seconds):
            do()

    thread = threading.Thread(target=beats, name="beats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=last)


# Heartbeats and last words of workers, in the key-value store of Ray's head, where the driver reads them.
#
# A driver that waits for workers cannot see whether one of them computes for an hour or none has been placed yet. So a
# worker that makes progress sends a heartbeat every few seconds, and one that has to exit says why (its last words).


@dataclass(frozen=True)
class Heartbeats:
    """The place in the store for one wait; created by the driver, sent to the workers.

    Attributes:
        place: prefix of all its keys; it starts with the prefix of the session's Ray job.
    """

    place: str = field(default_factory=lambda: f"{_of_this_job()}{uuid.uuid4().hex}")

    def alive(self, text: str) -> None:
        """Send a worker's heartbeat, which differs from the last one by its time. One that fails is skipped."""
        from ray.exceptions import RayError

        try:
            self._put(f"alive/{os.uname().nodename}-{os.getpid()}", f"{time.time():.1f} {text}")
            if spent := spending.told():
                self._put(f"spent/{spent['process']}", json.dumps(spent))
        except (RayError, RuntimeError, OSError) as error:  # the next heartbeat may get through
            log.warning("no heartbeat reached Ray's head: %s", error)

    def last_words(self, text: str) -> None:
        """Say why this worker exits."""
        self._put(f"words/{time.time():020.6f}-{os.getpid()}", text)

    def all_alive(self) -> dict[str, str]:
        """The latest heartbeat of every worker."""
        return self._all("alive/")

    def all_words(self) -> list[str]:
        """Last words of all workers, oldest first."""
        return [text for _, text in sorted(self._all("words/").items())]

    def all_spent(self) -> list[str]:
        """What each worker had paid for when it was last heard, as JSON (`fgvr.spending.told`)."""
        return list(self._all("spent/").values())

    @contextmanager
    def kept(self) -> Iterator[Self]:
        """Within the block; all are deleted when the wait ends, however it ends."""
        try:
            yield self
        finally:
            self.forget()

    def forget(self) -> None:
        """Delete heartbeats and last words of this wait."""
        _forget(f"{self.place}/")

    def _put(self, name: str, text: str) -> None:
        BOARD.put(f"{self.place}/{name}", text)

    def _keys(self, kind: str) -> list[str]:
        return BOARD.keys(f"{self.place}/{kind}")

    def _all(self, kind: str) -> dict[str, str]:
        return BOARD.texts(self._keys(kind))


def forget_all() -> None:
    """Delete all heartbeats of this session: a worker that was just exiting may have sent one after its wait's end."""
    _forget(_of_this_job())


def _of_this_job() -> str:
    """Prefix of the keys of a driver, the same in all processes of its Ray job."""
    import ray

    job = ray.get_runtime_context().get_job_id() if ray.is_initialized() else "none"
    return f"heartbeats/{job}/"


def _forget(prefix: str) -> None:
    """Delete keys. If the head is gone, so are they; an error here must not hide why a wait ended."""
    from ray.exceptions import RayError

    try:
        BOARD.delete(prefix)
    except (RayError, RuntimeError, OSError, ValueError) as error:
        log.debug("heartbeats at %s could not be removed: %s", prefix, error)
