"""Addresses of a host's name, in bounded time: the system's resolver can be neither timed nor stopped."""

from __future__ import annotations

import math
import socket
import threading
from typing import Final

import httpcore

_MOST: Final = 64
"""Look-ups at once, those that nobody waits for any more included."""
_PLACES: Final = threading.BoundedSemaphore(_MOST)


def look_up(host: str, port: int, seconds: float) -> list[str]:
    """The addresses of `host`, each once.

    Raises:
        httpcore.ConnectError: the name is unknown.
        httpcore.ConnectTimeout: the name servers do not answer in so many seconds. The look-up goes on by itself; where
            dozens of them do, nobody begins another one.
    """
    places = _PLACES
    found: list[str] = []
    failed: list[Exception] = []
    done = threading.Event()

    def ask() -> None:
        try:
            found.extend(str(place[0]) for *_, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failed.append(error)
        finally:
            places.release()
            done.set()

    wait = None if math.isinf(seconds) else min(seconds, threading.TIMEOUT_MAX)
    if not places.acquire(timeout=wait):
        raise httpcore.ConnectTimeout("the name servers answer none of many questions")
    threading.Thread(target=ask, name="look-up", daemon=True).start()
    if not done.wait(wait):
        raise httpcore.ConnectTimeout("the name servers do not answer")
    if failed:
        raise httpcore.ConnectError(f"the host is not known ({failed[0]})") from failed[0]
    return list(dict.fromkeys(found))
