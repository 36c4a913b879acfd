"""The driver's side of every long wait: it ends when nobody works any more, and says what it waited for."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from cluster.signs import Signs
from fgvr.errors import UserError

log = logging.getLogger(__name__)

Item = TypeVar("Item")

LOOK_SECONDS = 10.0
TELL_SECONDS = 300.0
_PLACE = "cluster.limits.place_minutes"


class Stalled(UserError):
    """Nothing came, and no worker gave a sign of life, for longer than a wait may take."""


def patiently(
    work: Callable[[], Iterable[Item]], signs: Signs, *, minutes: float, waits_for: Callable[[], str]
) -> Iterator[Item]:
    """The items of `work()`, which runs in a thread, as long as they come or workers give signs of life.

    Args:
        work: blocks between items for as long as it likes.
        signs: where its workers sign.
        minutes: without item and sign, after which the wait ends; the config's cluster.limits.place_minutes.
        waits_for: says what is being waited for.

    Raises:
        Stalled: after that time.
        BaseException: whatever `work` raises.
    """
    # One item at most is waiting: who produces them must not run ahead of who consumes them.
    items: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(maxsize=1)
    stop = threading.Event()
    threading.Thread(target=_produce, args=(work, items, stop), name="waiting", daemon=True).start()
    pulse = Pulse(signs)
    try:
        while True:
            try:
                item, end = items.get(timeout=min(LOOK_SECONDS, minutes * 15))
            except queue.Empty:
                pulse.look(minutes, waits_for)
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
    """There are no more items."""


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
    except BaseException as error:  # raised where the items are consumed
        put(None, error)
    else:
        put(None, _End())


class Pulse:
    """When something was last heard of workers: how long a driver has waited in vain."""

    def __init__(self, signs: Signs) -> None:
        self._signs = signs
        self._seen: dict[str, str] = {}
        self._last = self._told = time.monotonic()

    def heard(self) -> None:
        """Something came."""
        self._last = self._told = time.monotonic()

    def look(self, minutes: float, waits_for: Callable[[], str]) -> None:
        """Look for signs of life; raises Stalled, and says now and then what is being waited for."""
        seen = self._signs.all_alive()
        if seen != self._seen:
            self._seen = seen
            self.heard()
            return
        now = time.monotonic()
        silent = (now - self._last) / 60
        if silent > minutes:
            words = self._signs.all_words()
            said = f" Last words of a worker: {words[-1]}." if words else ""
            raise Stalled(
                f"{waits_for()}: no worker gave a sign of life for {silent:.1f} min ({_PLACE} = {minutes:g}).{said} "
                "Rows and checkpoints so far are kept; the same command goes on from there"
            )
        if now - self._told > TELL_SECONDS:
            self._told = now
            log.warning(
                "%s: no sign of life for %.0f min; the run stops after %g (%s)", waits_for(), silent, minutes, _PLACE
            )
