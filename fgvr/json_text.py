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
        seen = set[str]()
        for name, _ in pairs:
            if name in seen:
                raise RepeatedKey(f"{name!r} stands twice in an object; make one of them")
            seen.add(name)
    return found
