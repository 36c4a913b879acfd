"""The first requests of a kind go one at a time: what a server does not take is found out with one image."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

MOST_ALONE = 4
"""Requests of a kind that go alone while none succeeds; then the server is slow or ill rather than of another mind."""


@dataclass
class _Kind:
    lock: threading.Lock = field(default_factory=threading.Lock)
    alone: int = 0
    open: bool = False


class FirstRequests:
    """Lets requests of a kind through one at a time until one was answered; safe for several threads."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, sent: Mapping[str, Any]) -> Iterator[None]:
        """Hold a turn in the block, which ends without an error where the server answered."""
        with self._lock:
            kind = self._kinds.setdefault(_kind(sent), _Kind())
        if kind.open:
            yield
            return
        with kind.lock:
            if not kind.open:
                kind.alone += 1
                kind.open = kind.alone >= MOST_ALONE
                if not kind.open:
                    yield
                    kind.open = True
                    return
        yield


def _kind(sent: Mapping[str, Any]) -> str:
    """The fields of a request and their values, without what is another one in each request."""
    fields = {name: value for name, value in sent.items() if name not in {"model", "messages", "seed"}}
    images = any(not isinstance(message["content"], str) for message in sent["messages"])
    return json.dumps([fields, images, "seed" in sent], sort_keys=True, default=str)
