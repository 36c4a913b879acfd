"""How long one call to an object store may take, with all its retries: reading, listing, writing, of whoever calls.

The stores' libraries limit the wait for the next byte only, so a store that sends one now and then, or a network that
takes a request and never answers, would hold a caller for ever. All of them (s3fs, gcsfs, adlfs, Arrow's files on top
of them, Ray's) wait in one function of fsspec, `sync`, which can cancel a call after a time but by itself never does.
`limit_waits` teaches it this module's limits, once per process:

- `LONGEST_SECONDS` for any call, and no longer than a worker may be silent without being taken for stalled;
- what `within` says, for all calls of its block together: a single image;
- for whole files of known size (`transfer`) more, since their bytes count as progress.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Final

from fsspec import asyn
from fsspec.callbacks import Callback

from fgvr import liveness
from fgvr.errors import UserError

LONGEST_SECONDS: Final = 3600.0
"""Limit for one call. Retries of a store that refuses end after four minutes; listing ten million keys takes longer."""
SLOWEST: Final = 2**18
"""Bytes per second that a store delivers at least, beyond LONGEST_SECONDS: 16 GB have an hour and 17 hours more."""

_end: ContextVar[float | None] = ContextVar("end", default=None)
"""When the calls of this thread's block end, by the monotonic clock; None: each has LONGEST_SECONDS."""


class TooSlow(UserError, OSError):
    """A store did not do in time what it was asked for."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """All calls of the block (made by this thread) end after so many seconds together, or earlier with an outer block.

    The time is lower if waiting could be mistaken for a stall (`fgvr.liveness.longest_wait`).
    """
    end, outer = time.monotonic() + liveness.longest_wait(seconds), _end.get()
    token = _end.set(end if outer is None else min(end, outer))
    try:
        yield
    finally:
        _end.reset(token)


@contextmanager
def transfer(size: int) -> Iterator[Callback]:
    """Gives the calls of the block the time that `size` bytes take at least, and a callback: what arrives is a beat."""
    token = _end.set(time.monotonic() + LONGEST_SECONDS + size / SLOWEST)
    try:
        yield _Beats()
    finally:
        _end.reset(token)


class _Beats(Callback):  # type: ignore[misc]  # fsspec has no types
    """Counts pieces of a file that was copied as signs of life."""

    def relative_update(self, inc: int = 1) -> None:
        liveness.beat()


@cache
def limit_waits() -> None:
    """Teach fsspec's `sync` the limits; modules that took it before get the new one as well."""
    taught, before = _limited(asyn.sync), asyn.sync
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})  # not getattr(module, "sync"), at which lazy modules import things
        if names.get("sync") is before:
            names["sync"] = taught


def _limited(sync: Callable[..., Any]) -> Callable[..., Any]:
    def limited(loop: Any, func: Callable[..., Any], *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        end = _end.get()
        seconds = liveness.longest_wait(LONGEST_SECONDS) if end is None else end - time.monotonic()
        if timeout is not None:
            seconds = min(seconds, timeout)
        what = next((text for text in args if isinstance(text, str)), getattr(func, "__name__", "a call"))
        too_slow = TooSlow(
            f"{what}: the object store did not finish in {max(seconds, 0):.0f} s; where more depends on it than "
            "a photo, give the same command again when the store is well"
        )
        if seconds <= 0:  # fsspec would take 0 for no limit
            raise too_slow
        started = time.monotonic()
        try:
            return sync(loop, func, *args, timeout=seconds, **kwargs)
        except asyn.FSTimeoutError as error:
            if time.monotonic() < started + seconds:
                raise  # a timeout of the network's own
            raise too_slow from error

    return limited
