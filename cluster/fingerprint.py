"""The fingerprint of a table: a hash of what decides its content, of its inputs' versions and the schema version."""

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

MADE_UP = "made_up"
"""Key in a manifest's `extra`: the table rests on simulated models, whose names are its value."""


def digest_of_ids(ids: npt.NDArray[np.int64]) -> str:
    """Digest of a set of images, int64 [n] ascending, for a fingerprint."""
    return hashlib.sha256(np.ascontiguousarray(ids).data).hexdigest()


def fingerprint_of(name: str, decides: Any, inputs: Sequence[Table], versions: Mapping[str, str] | None = None) -> str:
    """Hash of a stage's name, what decides its content, its inputs and the schema version; 16 hex digits.

    `versions`: by name, versions of inputs that the hash uses instead of the current ones.
    """
    made_of = [[table.name, (versions or {}).get(table.name, table.version)] for table in inputs]
    text = json.dumps([name, SCHEMA_VERSION, plain(decides), made_of], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """Config parts as JSON types, without fields that only set where, how fast or on how many workers a stage runs."""
    if isinstance(value, ImageLimits):
        # Limits per image decide only which rows fail: see `RunContext.stage`.
        return {**value.deciding(), "pixels": PIXELS}
    if isinstance(value, Part):
        return plain(value.deciding())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


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
