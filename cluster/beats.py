"""Something done again and again beside the work: signs of life, progress, the seconds of a stage."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
