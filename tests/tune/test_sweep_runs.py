"""Whole sweeps under Ray: one that is killed half-way and continued, and one with trials that fail."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from ray import tune

from cluster.run import open_run
from fgvr.config import load_config
from pipelines.command import PRESETS
from tests.tune.drawn_run import DrawnRun, near_space, small_config, swept_config
from tune import near_sweep
from tune.makd_sweep import MakdSweep
from tune.sweep import Options, run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path / "cache"))


def trial_runs(folder: Path) -> dict:
    """The MLflow runs of a run folder's trials, by the trial's id."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("fgvr")
    runs = client.search_runs([experiment.experiment_id], "tags.`fgvr.trial` != ''") if experiment else []
    return {run.data.tags["fgvr.trial"]: run for run in runs}


def start(folder: Path, log: Path) -> subprocess.Popen:
    with log.open("w") as file:
        command = [sys.executable, "-m", "tests.tune.drawn_run", str(folder)]
        record_often = os.environ | {"TUNE_GLOBAL_CHECKPOINT_S": "1"}
        return subprocess.Popen(
            command, cwd=ROOT, env=record_often, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def kill_all(process: subprocess.Popen) -> None:
    """The driver first, as an out-of-memory killer would; then what Ray left of its session."""
    process.kill()
    process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.usefixtures("ray_session_of_two")
def test_a_killed_sweep_of_near_continues(tmp_path, monkeypatch, capsys, caplog):
    """The second session continues the first one's trial, stops those that are behind, and writes best.yaml."""
    folder = tmp_path / "small"
    first = start(tmp_path, tmp_path / "first.log")
    try:
        deadline = time.monotonic() + 300
        while not any(run.data.metrics.get("epoch", 0) >= 2 for run in trial_runs(folder).values()):
            assert first.poll() is None, (tmp_path / "first.log").read_text()[-3000:]
            assert time.monotonic() < deadline, (tmp_path / "first.log").read_text()[-3000:]
            time.sleep(0.5)
        time.sleep(4)  # Ray Tune writes its record every second
    finally:
        kill_all(first)
    before = trial_runs(folder)
    monkeypatch.setattr(near_sweep, "near_space", near_space)
    caplog.set_level("INFO", "tune")
    with open_run(swept_config(tmp_path)) as context:
        run(DrawnRun(context), Options("near", trials=2))
    shown = capsys.readouterr().out
    assert "near: continuing the sweep" in caplog.text
    runs = trial_runs(folder)
    assert len(runs) == 2
    assert set(before) <= set(runs)
    states = [run.data.tags["fgvr.state"] for run in runs.values()]
    assert states.count("finished") >= 1
    assert states.count("stopped early") >= 1  # drawn_run gives all trials but the first a hopeless rate
    best_run = max(runs.values(), key=lambda run: run.data.metrics["held_out_votes"])
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    place = folder / "sweeps" / "near"
    best = load_config(["--config", str(place / "best.yaml")], PRESETS)
    config = swept_config(tmp_path)
    assert best.near.lr == pytest.approx(float(best_run.data.params["near.lr"]))
    assert best.model_copy(update={"near": config.near, "candidates": config.candidates}) == config
    assert (place / "trials.csv").read_text().count("\n") == 3
    assert re.search(r"held_out_votes +epochs +state", shown)
    assert not list(place.glob("*/trials"))  # checkpoints are gone


@pytest.mark.usefixtures("ray_session_of_two")
def test_failed_trials_of_makd_do_not_stop_the_others(tmp_path, monkeypatch):
    def space(self):
        return {"makd.lr": tune.loguniform(0.01, 0.1), "makd.min_crop": tune.choice([0.08, *range(2, 30)])}

    monkeypatch.setattr(MakdSweep, "space", space)  # a smallest crop above 1 is no valid value
    with open_run(small_config(tmp_path)) as context:
        trials = run(DrawnRun(context), Options("makd", trials=3, seed=1))
        parent = context.tracker.run_id
    runs = trial_runs(tmp_path / "small")
    assert len(trials) == len(runs) == 3
    failed = [trial for trial in trials if trial.state == "failed"]
    assert failed
    for trial in trials:
        child = runs[trial.trial_id]
        assert child.data.tags["mlflow.parentRunId"] == parent
        assert child.data.params["makd.min_crop"] == str(trial.values["makd.min_crop"])
        assert child.data.tags["fgvr.state"] == trial.state
        if trial in failed:
            assert child.info.status == "FAILED"
            assert "makd.min_crop" in trial.error
            assert trial.error in child.data.tags["fgvr.error"]
        else:
            assert child.info.status == "FINISHED"
            history = MlflowClient().get_metric_history(child.info.run_id, "validation_top1")
            assert [point.step for point in history] == [1, 2]
            assert trial.score == pytest.approx(max(point.value for point in history))
    best = load_config(["--config", str(tmp_path / "small/sweeps/makd/best.yaml")], PRESETS)
    assert best.makd.lr == trials[0].values["makd.lr"]
    assert mlflow.get_run(parent).data.metrics["sweep.makd.validation_top1"] == pytest.approx(trials[0].score)
