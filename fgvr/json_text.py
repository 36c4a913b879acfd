"""JSON that people or other programs wrote: a key that stands twice in an object is an error."""

from __future__ import annotations

import json
from typing import Any


class RepeatedKey(ValueError):
    """An object says a key twice; Python's reader silently lets the last one win."""


def read_json(text: str | bytes) -> Any:
    """The content of a JSON document; raises RepeatedKey, or ValueError or RecursionError for what is no JSON."""
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise RepeatedKey(f"{twice!r} stands twice in an object; make one of them")
    return found
