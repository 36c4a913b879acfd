"""Golden files: what the code said when they were written, and the one switch that writes them anew."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
REWRITE = "FGVR_REWRITE_GOLDEN"
"""Environment variable; 1: the tests of this folder write their files anew, and pass."""


def check(name: str, found: Any) -> None:
    """Compare JSON types with the golden file of that name, or write it; a difference is shown value by value."""
    file = FOLDER / f"{name}.json"
    text = json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if os.environ.get(REWRITE) == "1":
        file.write_text(text, encoding="utf-8")
        return
    differences = list(_differences(json.loads(file.read_text(encoding="utf-8")), json.loads(text), name))
    assert not differences, (
        "\n".join(differences) + f"\nIf that is meant, say so in CHANGELOG.md and write the file anew: {REWRITE}=1"
    )


def _differences(before: Any, now: Any, place: str) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        lines = [f"{place}: no {key!r} any more" for key in before if key not in now]
        lines += [f"{place}: {key!r} is new" for key in now if key not in before]
        return lines + [
            line for key in before if key in now for line in _differences(before[key], now[key], f"{place} > {key}")
        ]
    return [] if before == now else [f"{place}: was {before!r}, is {now!r}"]
