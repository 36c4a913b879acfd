"""The rows of the table `comparison`, and what each training said of each test photo."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from fgvr.compare.measure import Measured
from fgvr.compare.quality import Measure

Row = dict[str, Any]
OUTCOMES = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("rank", pa.int64(), nullable=False),  # of the true name, 0 for the best; −1: not among the five best
        ("label", pa.string()),  # the best name
    ]
)


def measured_rows(model: str, seed: int, measured: Measured, train_ms: float | None) -> Iterator[Row]:
    """Rows of schemas.COMPARISON of a training that went well."""
    for source, measures in measured.quality.items():
        for each in measures:
            yield _row(model, seed, source, each)
    for each in [*measured.costs, Measure("train_ms", train_ms, "" if train_ms else "no epoch was timed")]:
        yield _row(model, seed, "", each)


def failed_rows(model: str, seed: int, sources: Iterable[str], reason: str) -> Iterator[Row]:
    """Rows of a training that failed: no top-1, and why."""
    for source in sources:
        yield _row(model, seed, source, Measure("top1", None, reason))


def outcome_rows(model: str, seed: int, measured: Measured) -> pa.Table:
    """Rows of `OUTCOMES`."""
    parts = []
    for source, ids in measured.ids.items():
        count = len(ids)
        columns = [
            pa.array([model] * count, pa.string()),
            pa.array(np.full(count, seed)),
            pa.array([source] * count, pa.string()),
            pa.array(ids),
            pa.array(measured.ranks[source]),
            pa.array(measured.said[source], pa.string()),
        ]
        parts.append(pa.table(columns, schema=OUTCOMES))
    return pa.concat_tables(parts)


def _row(model: str, seed: int, source: str, measure: Measure) -> Row:
    return {
        "model": model,
        "seed": seed,
        "source": source,
        "metric": measure.metric,
        "value": measure.value,
        "low": measure.low,
        "high": measure.high,
        "note": measure.note or None,
    }
