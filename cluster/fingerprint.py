"""What names a table's content: a hash of what decides it, of the versions of its inputs, and of the schema version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fgvr.config.base import Part
from fgvr.config.data import ImageLimits
from fgvr.config.models import MADE_UP_KINDS
from fgvr.images.read import PIXELS
from fgvr.schemas import SCHEMA_VERSION
from fgvr.tables import Table


def digest_of_ids(ids: npt.NDArray[np.int64]) -> str:
    """Names a set of images, int64 [n] ascending, in a fingerprint."""
    return hashlib.sha256(np.ascontiguousarray(ids).data).hexdigest()


def fingerprint_of(name: str, decides: Any, inputs: Sequence[Table], versions: Mapping[str, str] | None = None) -> str:
    """Hash of a stage's name, what decides its content, its inputs and the schema version; 16 hex digits.

    `versions`: of inputs that stand for another version than today's, by their names.
    """
    made_of = [[table.name, (versions or {}).get(table.name, table.version)] for table in inputs]
    text = json.dumps([name, SCHEMA_VERSION, plain(decides), made_of], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """Config parts as JSON types, without fields that only say where, how fast or how wide a stage runs."""
    if isinstance(value, ImageLimits):
        # What an image may cost decides nothing but which rows failed: see `RunContext.stage`.
        return {**value.deciding(), "pixels": PIXELS}
    if isinstance(value, Part):
        return plain(value.deciding())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


MADE_UP = "made_up"
"""Key in a manifest's `extra`: the table rests on simulated models, whose names are its value."""


def made_up(decides: Any, inputs: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> list[str]:
    """Names of the simulated models that a table rests on, sorted.

    Args:
        decides: what decides the table's content, as JSON types.
        inputs: the `extra` of the tables that it is made of.
    """
    found = {name for extra in inputs for name in extra.get(MADE_UP, ())}
    return sorted(found | set(_simulated(decides, "")))


def _simulated(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, dict):
        if str(value.get("kind")) in MADE_UP_KINDS:
            yield name
        for key, item in value.items():
            yield from _simulated(item, str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _simulated(item, name)
