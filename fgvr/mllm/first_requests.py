"""The first requests of a kind go one at a time: what a server does not take is found out with one image."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from fgvr.mllm.backend import BackendRefused

MOST_ALONE = 3
"""Requests of a kind that go alone while none succeeds; then the server is slow or ill rather than of another mind."""


@dataclass
class _Kind:
    lock: threading.Lock = field(default_factory=threading.Lock)
    alone: int = 0
    open: bool = False
    refused: str = ""


class FirstRequests:
    """Lets requests of a kind through one at a time until one was answered; safe for several threads."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, request: Mapping[str, Any]) -> Iterator[None]:
        """Hold a turn in the block, which ends without an error where the server answered.

        Raises:
            BackendRefused: an earlier request of the kind ended with it, so that this one need not be sent.
        """
        with self._lock:
            kind = self._kinds.setdefault(_kind(request), _Kind())
        with ExitStack() as held:
            if not kind.open:
                held.enter_context(kind.lock)
                kind.alone += 1
                if kind.open or kind.alone > MOST_ALONE:
                    kind.open = True
                    held.close()
            if kind.refused:
                raise BackendRefused(kind.refused)
            try:
                yield
            except BackendRefused as error:
                kind.refused = str(error)
                raise
            kind.open = True


def _kind(request: Mapping[str, Any]) -> str:
    """The fields of a request and their values, without what is another one in each request."""
    fields = {name: value for name, value in request.items() if name not in {"model", "messages", "seed"}}
    images = any(not isinstance(message["content"], str) for message in request["messages"])
    return json.dumps([fields, images, "seed" in request], sort_keys=True, default=str)
