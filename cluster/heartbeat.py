"""Something done again and again beside the work: signs of life, progress, the seconds of a stage."""

from __future__ import annotations

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
from fgvr import storage

log = logging.getLogger(__name__)


def leave(uri: str, data: bytes) -> bool:
    """Write a sign that may be lost: whether it is there now. What stands in its way ends neither beats nor work."""
    try:
        storage.write_bytes(uri, data)
    # An object store's library raises errors of its own, of no common kind; the next sign may get through.
    except Exception as error:
        log.debug("no sign could be left at %s: %s", uri, error)
        return False
    return True


@contextmanager
def beating(do: Callable[[], object], seconds: float, *, last: float | None = None) -> Iterator[None]:
    """Call `do` every so many seconds, on a thread of its own, as long as the block lasts.

    Args:
        do: what to do; takes no part in the block's context variables.
        seconds: from one call's end to the next call.
        last: seconds that a call is waited for in which the block ends, so that a store or a server that hangs does
            not hold up the work; None: until it ends. The thread is a daemon: it keeps no process alive.
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


# Heartbeats and last words of workers, where the driver finds them: in the key-value store of Ray's head.
#
# A driver that waits for workers cannot see whether one of them computes for an hour or none has been given a place.
# So a worker says every few seconds that it is alive and getting on, and one that has to end says why.

BOARD = Board(b"fgvr")
BEAT_SECONDS = 10.0
"""Between two heartbeats of a worker that does something, at most."""


@dataclass(frozen=True)
class Heartbeats:
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
    """Forget all heartbeats of this session: a worker that was just ending may have left one behind a wait's end."""
    _forget(_of_this_job())


def _of_this_job() -> str:
    """Prefix of a driver's heartbeats, the same in all processes of its Ray job."""
    import ray

    job = ray.get_runtime_context().get_job_id() if ray.is_initialized() else "none"
    return f"heartbeats/{job}/"


def _forget(prefix: str) -> None:
    """Where the head is gone they are, too: that is no reason to hide why a wait ended."""
    from ray.exceptions import RayError

    try:
        BOARD.delete(prefix)
    except (RayError, RuntimeError, OSError, ValueError) as error:
        log.debug("heartbeats at %s could not be removed: %s", prefix, error)
