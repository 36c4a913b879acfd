"""What names a table's content: a hash of what decides it, of the versions of its inputs, and of the schema version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fgvr.config.base import Part
from fgvr.config.data import ImageLimits
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
