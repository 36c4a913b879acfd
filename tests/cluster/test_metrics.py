"""A stage's numbers at the real Prometheus endpoint of a Ray session, against its table."""

import time
import urllib.request
from collections import Counter
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.metrics import OTHER, REASONS, StageMetrics, endpoint
from cluster.parts import PartJob
from cluster.run import open_run
from cluster.stage import StageFolder, StageSummary
from fgvr import tables
from fgvr.config import build
from fgvr.config.base import Workers
from fgvr.tables import Table
from tests.cluster.workers import SCHEMA, SquareWorker

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session_of_two")]

Series = dict[tuple[str, ...], float]


def scraped() -> dict[str, Series]:
    """Values of our metrics by name, and by their tags stage, reason, kind."""
    url = endpoint()
    assert url is not None
    assert url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(url, timeout=20) as answer:
        text = answer.read().decode()
    found: dict[str, Series] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("ray_fgvr_"):
                tags = tuple(sample.labels[name] for name in ("stage", "reason", "kind", "le") if name in sample.labels)
                found.setdefault(sample.name, {})[tags] = sample.value
    return found


def wait_for(name: str, tags: tuple[str, ...], value: float) -> dict[str, Series]:
    """What Prometheus would read as soon as a value has arrived: tests/conftest.py lets Ray hand metrics on often."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        found = scraped()
        if found.get(name, {}).get(tags) == value:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{name}{tags} is not {value}: {scraped().get(name)}")


def test_prometheus_and_mlflow_say_what_the_table_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.stage_progress.EVERY_SECONDS", 0.2)
    samples_uri = str(tmp_path / "samples")
    tables.write_part(samples_uri, 0, pa.table({"image_id": range(20), "uri": [f"{n}.jpg" for n in range(20)]}))
    samples = Table(samples_uri, "samples", "f", 20, 0, 1, 20, 0.0)
    (tmp_path / "diary").mkdir()
    arguments = {"diary": str(tmp_path / "diary"), "fails": 3}
    workers = Workers(rows_per_part=4, num_cpus=1)

    def compute(folder: StageFolder) -> StageSummary:
        job = PartJob("squares", folder.uri, SquareWorker, arguments, SCHEMA, samples, workers)
        summary = folder.run_parts(job, np.arange(20), "squares.workers")
        time.sleep(1)  # longer than an interval
        return summary

    config = build({"run": {"folder": str(tmp_path), "name": "squares", "max_error_share": 0.5}})
    with open_run(config) as context:
        table = context.stage("squares", decides={}, inputs=[], compute=compute)
        tracked = mlflow.MlflowClient(context.tracker.uri)
        nested = tracked.search_runs(
            [context.tracker.run.info.experiment_id], f"tags.mlflow.parentRunId = '{context.tracker.run_id}'"
        )
        history = tracked.get_metric_history(nested[0].info.run_id, "progress.rows")
    rows = table.read()
    errors = Counter(error["reason"] for error in rows["error"].to_pylist() if error is not None)
    assert (rows.num_rows, errors) == (20, {"corrupt": 3})

    stage_tag = ("squares",)
    found = wait_for("ray_fgvr_rows_total", stage_tag, rows.num_rows)
    assert found["ray_fgvr_failed_rows_total"][(*stage_tag, "corrupt")] == errors["corrupt"]
    assert found["ray_fgvr_tokens_total"][(*stage_tag, "prompt")] == sum(rows["prompt_tokens"].to_pylist()) == 60
    found = wait_for("ray_fgvr_stage_parts_waiting", stage_tag, 0)
    assert found["ray_fgvr_stage_rows"][stage_tag] == rows.num_rows
    assert found["ray_fgvr_stage_rows_wanted"][stage_tag] == rows.num_rows
    assert found["ray_fgvr_stage_failed_rows"][stage_tag] == errors["corrupt"]
    assert found["ray_fgvr_part_seconds_count"][stage_tag] == table.parts == 5
    assert 0 < found["ray_fgvr_stage_seconds"][stage_tag] <= table.seconds + 0.5

    assert history
    assert history[-1].value == 20
    assert nested[0].data.metrics["progress.failed.corrupt"] == 3


def test_reasons_that_nobody_foresaw_share_one_series() -> None:
    metrics = StageMetrics("odd")
    metrics.computed(5, {"corrupt": 1, "<script>": 2, "x" * 1000: 1}, {})
    found = wait_for("ray_fgvr_failed_rows_total", ("odd", OTHER), 3)
    reasons = {tags[1] for tags in found["ray_fgvr_failed_rows_total"]}
    assert reasons <= REASONS | {OTHER}
