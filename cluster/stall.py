"""The driver's side of every long wait: it detects a stall, ends the wait, and says what it waited for."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from cluster.heartbeat import Heartbeats
from fgvr.errors import UserError

log = logging.getLogger(__name__)

Item = TypeVar("Item")

LOOK_SECONDS = 10.0
TELL_SECONDS = 300.0
_PLACE = "cluster.limits.place_minutes"


class Stalled(UserError):
    """A stall: no result and no heartbeat for longer than a wait may take."""


def unless_stalled(
    work: Callable[[], Iterable[Item]],
    heartbeats: Heartbeats,
    *,
    minutes: float,
    waits_for: Callable[[], str],
    check: Callable[[], None] = lambda: None,
) -> Iterator[Item]:
    """Yield the items of `work()`, which runs in a thread, as long as items or heartbeats of workers arrive.

    Args:
        work: may block for any time between items.
        heartbeats: the heartbeats of its workers.
        minutes: time without item and heartbeat after which the wait ends: cluster.limits.place_minutes.
        waits_for: returns what the driver waits for, as text.
        check: called every ten seconds; what it raises ends the wait.

    Raises:
        Stalled: after that time.
        BaseException: whatever `work` raises.
    """
    # At most one item waits, so that the producer does not run ahead of the consumer.
    items: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(maxsize=1)
    stop = threading.Event()
    threading.Thread(target=_produce, args=(work, items, stop), name="waiting", daemon=True).start()
    pulse = StallDetector(heartbeats)
    try:
        while True:
            try:
                item, end = items.get(timeout=min(LOOK_SECONDS, minutes * 15))
            except queue.Empty:
                pulse.look(minutes, waits_for)
                check()
                continue
            pulse.heard()
            if isinstance(end, _End):
                return
            if end is not None:
                raise end
            yield item  # type: ignore[misc]  # an item where there is no end
    finally:
        stop.set()


class _End(Exception):
    """Marks the end of the items."""


def _produce(
    work: Callable[[], Iterable[Item]],
    items: queue.Queue[tuple[Item | None, BaseException | None]],
    stop: threading.Event,
) -> None:
    def put(item: Item | None, end: BaseException | None) -> None:
        while not stop.is_set():
            try:
                items.put((item, end), timeout=1.0)
            except queue.Full:
                continue
            return

    try:
        for item in work():
            put(item, None)
            if stop.is_set():
                return
    except BaseException as error:  # raised again in the consumer
        put(None, error)
    else:
        put(None, _End())


class StallDetector:
    """Tracks when workers were last heard, and so how long the driver has waited in vain."""

    def __init__(self, heartbeats: Heartbeats) -> None:
        self._heartbeats = heartbeats
        self._seen: dict[str, str] = {}
        self._last = self._told = time.monotonic()

    def heard(self) -> None:
        """Note that a result or heartbeat arrived."""
        self._last = self._told = time.monotonic()

    def look(self, minutes: float, waits_for: Callable[[], str]) -> None:
        """Look for heartbeats; raises Stalled, and logs from time to time what the driver waits for."""
        seen = self._heartbeats.all_alive()
        if seen != self._seen:
            self._seen = seen
            self.heard()
            return
        now = time.monotonic()
        silent = (now - self._last) / 60
        if silent > minutes:
            words = self._heartbeats.all_words()
            said = f" Last message of a worker: {words[-1]}." if words else ""
            raise Stalled(
                f"{waits_for()}: no heartbeat of any worker for {silent:.1f} min ({_PLACE} = {minutes:g}).{said} "
                "Rows and checkpoints so far are kept; the same command goes on from there"
            )
        if now - self._told > TELL_SECONDS:
            self._told = now
            log.warning(
                "%s: no heartbeat for %.0f min; the run stops after %g (%s)", waits_for(), silent, minutes, _PLACE
            )
