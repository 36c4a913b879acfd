"""Tokens for which this process has been billed so far, by model: counted as replies arrive, kept ones not again.

A worker's counts only grow, so whoever hears them twice, or late, still knows the right sum. They travel with
heartbeats and with the summaries of parts to the driver, which adds those of all processes (`cluster.budget`).
"""

from __future__ import annotations

import threading
import uuid
from dataclasses import asdict, astuple, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Tokens:
    """Sums over replies.

    Attributes:
        requests: replies that were paid for.
        prompt: prompt tokens, images and cached ones included.
        cached: those of them that the server read from its prefix cache.
        output: tokens of the answers.
        uncounted: replies whose server does not state tokens; they are in `requests` and in no other sum.
    """

    requests: int = 0
    prompt: int = 0
    cached: int = 0
    output: int = 0
    uncounted: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Tokens) -> Tokens:
        return Tokens(*(one - two for one, two in zip(astuple(self), astuple(other), strict=True)))

    def as_json(self) -> dict[str, int]:
        """JSON types."""
        return asdict(self)

    @classmethod
    def of_json(cls, facts: dict[str, Any]) -> Self:
        """Read what `as_json` gave."""
        return cls(**{name: int(facts.get(name, 0)) for name in cls.__dataclass_fields__})


_paid: dict[str, Tokens] = {}
_name = ""  # of this process among all that count; its id may be another's later
_lock = threading.Lock()


def begin() -> None:
    """Count from here on, under a new name: called by a worker at its start."""
    global _name  # noqa: PLW0603  # a process has one purse
    with _lock:
        _paid.clear()
        _name = uuid.uuid4().hex[:12]


def pay(model: str, prompt: int | None, cached: int | None, output: int | None) -> None:
    """Count a reply of a model that somebody bills by the token; None: its server does not say."""
    known = prompt is not None and output is not None
    reply = Tokens(1, prompt or 0, cached or 0, output or 0) if known else Tokens(1, uncounted=1)
    with _lock:
        _paid[model] = _paid.get(model, Tokens()) + reply


def paid() -> dict[str, Tokens]:
    """The sums of this process, by model."""
    with _lock:
        return dict(_paid)


SPENT = "spent"
"""Key beside the summary of a part or the result of a call: the sums of the process that computed it."""


def told() -> dict[str, Any]:
    """This process and its sums in JSON types, for whoever adds those of all processes; empty without any."""
    found = paid()
    return {"process": _name, "models": {model: each.as_json() for model, each in found.items()}} if found else {}
