"""Whole sweeps under Ray: MLflow, best.yaml, failed trials, and a sweep that is killed half-way."""

import logging

import mlflow
import pytest

from cluster.run import open_run
from fgvr.config import load_config
from pipelines.flow import PRESETS
from tests.tune.drawn_run import DrawnRun, small_config
from tune.sweep import Options, run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session_of_two")]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path / "cache"))


def sweep(config, **options):
    """The trials, and the MLflow runs of all of them."""
    with open_run(config) as context:
        trials = run(DrawnRun(context), Options(**options))
        parent = context.tracker.run_id
    children = mlflow.search_runs(filter_string=f"tags.`mlflow.parentRunId` = '{parent}'", output_format="list")
    return trials, [child for child in children if "fgvr.trial" in child.data.tags]


def test_near(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    config = small_config(tmp_path)
    trials, runs = sweep(config, stage="near", trials=3, seed=1)
    assert len(trials) == len(runs) == 3
    by_id = {run.data.tags["fgvr.trial"]: run for run in runs}
    for trial in trials:
        child = by_id[trial.trial_id]
        assert child.info.status == "FINISHED"
        assert child.data.tags["fgvr.state"] == trial.state
        assert child.data.metrics["held_out_votes"] == pytest.approx(trial.score)
        assert float(child.data.params["near.lr"]) == pytest.approx(trial.values["near.lr"])
    place = tmp_path / "small" / "sweeps" / "near"
    best = load_config(["--config", str(place / "best.yaml")], PRESETS)
    assert best.near.lr == trials[0].values["near.lr"]
    assert best.candidates.k == trials[0].values["candidates.k"]
    assert best.model_copy(update={"near": config.near, "candidates": config.candidates}) == config
    assert (place / "trials.csv").read_text().count("\n") == 4
