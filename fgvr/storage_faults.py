"""What goes wrong with storage for a while, and what a person has to mend.

An object store that is overloaded, restarts or loses connections is asked again for minutes, with growing pauses. A
full disk is told as one.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from fgvr import liveness
from fgvr.errors import UserError

log = logging.getLogger(__name__)

S3_TRIES = 22
"""Of one request; s3fs pauses 0.1 s · 1.7ⁿ between them, 15 s at most: four minutes in all."""
CONNECT_SECONDS, READ_SECONDS = 15, 60
"""Longest wait of a try for a connection, and for the next bytes."""
TELL_SECONDS = 10.0
_PASSING = (
    *("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Throttling", "TooManyRequests"),
    *("RequestLimitExceeded", "BandwidthLimitExceeded", "(500)", "(502)", "(503)", "(504)", "Bad Gateway"),
)
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}  # the last two: a file is there


class StorageFull(UserError, OSError):
    """No space is left where a file was to be written."""


@contextmanager
def full_disk(target: Path, remedy: str | None = None) -> Iterator[None]:
    """Turns a full disk's error into StorageFull; other errors pass.

    Args:
        target: what was to be written.
        remedy: what to do about it; None: what helps where it is a run's file.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        what_to_do = remedy or (
            "What is written is kept; make room, or move the run folder to a larger disk, and give the same command "
            "again"
        )
        raise StorageFull(f"{target}: no space is left there ({error.strerror}). {what_to_do}") from error


def is_full(error: OSError) -> bool:
    """Whether it says that a disk, or this user's share of it, is full."""
    return error.errno in _FULL


def cannot_write(error: OSError) -> bool:
    """Whether it says that a folder takes no files: it is full, read-only, somebody else's, or none."""
    return is_full(error) or error.errno in _NOT_OURS


def patient(uri: str) -> dict[str, Any]:
    """Arguments of fsspec's file system for `uri`, which make it try again as described above."""
    if not uri.startswith(("s3://", "s3a://")):
        return {}
    _teach_s3fs()
    # Tries are counted in one place: botocore's own would multiply ours.
    waits = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
    return {"config_kwargs": {"retries": {"total_max_attempts": 1, "mode": "standard"}, **waits}}


@cache
def _teach_s3fs() -> None:
    """Once a process. By itself s3fs gives up after 1.5 seconds, and at once at an internal error of the server."""
    import s3fs.core

    s3fs.core.S3FileSystem.retries = S3_TRIES
    s3fs.core.set_custom_error_handler(_Passing())


class _Passing:
    """Whether an error may pass by itself; says now and then what is being waited for."""

    def __init__(self) -> None:
        self._told = -TELL_SECONDS

    def __call__(self, error: Exception) -> bool:
        from botocore.exceptions import ConnectionError as BrokenConnection

        text = str(error)
        if not isinstance(error, BrokenConnection) and not any(words in text for words in _PASSING):
            return False
        liveness.beat()  # the tries have an end: waiting for a store is no hang
        now = time.monotonic()
        if now - self._told >= TELL_SECONDS:
            self._told = now
            log.warning("the object store answers %s: trying again", text[:200])
        return True
