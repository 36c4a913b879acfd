"""A stage's numbers as Ray metrics, which every node exports to Prometheus; see docs/observability.md.

The driver records them, so they appear at the endpoint of its node. The only tags are the stage's name and one of the
few reasons of `fgvr.schemas.Reason`, so the number of series stays small however long a run is.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import ParamSpec

from cluster.tracking_names import label
from fgvr.schemas import Reason

log = logging.getLogger(__name__)

Given = ParamSpec("Given")

REASONS = frozenset(reason.value for reason in Reason)
OTHER = "other"
TOKENS = "_tokens"
SECONDS = [0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200]
"""Bucket bounds of the histogram of times between parts."""


def _or_not(record: Callable[Given, None]) -> Callable[Given, None]:
    """Ignore errors while metrics are recorded: they must not stop a stage."""

    @wraps(record)
    def tried(*args: Given.args, **more: Given.kwargs) -> None:
        try:
            record(*args, **more)
        except Exception as error:
            log.debug("Ray does not accept a stage's metrics: %s", error)

    return tried


class StageMetrics:
    """The metrics of one stage; needs a Ray session. Ray adds the prefix `ray_`, and `_total` to counters."""

    def __init__(self, stage: str) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        self._tags = {"stage": label(stage)}
        one, reason, kind = ("stage",), ("stage", "reason"), ("stage", "kind")
        self._rows = Counter("fgvr_rows", "Rows computed by this session, failed ones included", one)
        self._failed = Counter("fgvr_failed_rows", "Of these, failed ones by reason", reason)
        self._tokens = Counter(
            "fgvr_tokens", "Tokens of the rows computed by this session: prompt, cached, output", kind
        )
        self._part = Histogram("fgvr_part_seconds", "Seconds between two finished parts", SECONDS, one)
        gauges = {
            "rows": "Rows of the stage that are there, those of earlier sessions included",
            "rows_wanted": "Rows that the stage will have",
            "failed_rows": "Rows of the stage that are there and failed",
            "parts_waiting": "Parts that are not finished, waiting or being computed",
            "seconds": "Wall time of the stage in all sessions",
            "epoch": "Epochs trained",
            "epochs": "Epochs of the whole training",
            "drift_alarms": "Tests of new photos against those of training that are alarms",
        }
        self._gauges = {name: Gauge(f"fgvr_stage_{name}", text, one) for name, text in gauges.items()}

    @_or_not
    def computed(self, rows: int, failures: Mapping[str, int], tokens: Mapping[str, float]) -> None:
        """Count rows computed in this session."""
        if rows:
            self._rows.inc(rows, self._tags)
        for reason, count in failures.items():
            if count:
                self._failed.inc(count, self._tags | {"reason": reason if reason in REASONS else OTHER})
        for name, number in tokens.items():
            if number and name.endswith(TOKENS):
                self._tokens.inc(number, self._tags | {"kind": label(name.removesuffix(TOKENS))})

    @_or_not
    def part_took(self, seconds: float) -> None:
        """Record the time between two finished parts."""
        self._part.observe(seconds, self._tags)

    @_or_not
    def state(self, numbers: Mapping[str, float]) -> None:
        """Set the stage's gauges that occur in `numbers`."""
        for name, gauge in self._gauges.items():
            if name in numbers:
                gauge.set(numbers[name], self._tags)


def stage_metrics(stage: str) -> StageMetrics | None:
    """The metrics of a stage; None where there is no Ray session, as in tests of single stages."""
    ray = sys.modules.get("ray")
    return StageMetrics(stage) if ray is not None and ray.is_initialized() else None


def endpoint() -> str | None:
    """The endpoint at which this node exports metrics to Prometheus; None without a session or without metrics."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    here = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == here and node["MetricsExportPort"] > 0:
            return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    return None
