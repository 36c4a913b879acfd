"""Trials in MLflow, told through the run's tracker: in an outage, and by a session that continues a sweep."""

import copy
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from cluster.tracked_run import tracked_run
from fgvr.config import build
from tune.spaces import EPOCH, Objective
from tune.trials import TrialRuns


@dataclass
class OneTrial:
    """What of a trial of Ray Tune is read."""

    trial_id: str
    config: dict[str, Any]
    last_result: dict[str, Any] = field(default_factory=dict)
    ended: bool = False

    def is_finished(self) -> bool:
        return self.ended


def test_trials_of_an_outage_and_of_two_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.tracking_link.FIRST_PAUSE", 0.0)
    config = build({"run": {"name": "birds"}})
    first, second = OneTrial("a1", {"near.lr": 0.1}), OneTrial("b2", {"near.lr": 0.2})
    trials = [first, second]
    runs = TrialRuns("near", "f00", 2, 2, Objective("top1", "top-1", "last"))

    def down(*args: Any, **more: Any) -> None:
        raise MlflowException("connection refused")

    with suppress(KeyboardInterrupt), tracked_run(config, str(tmp_path)):
        runs.on_trial_start(0, trials, first)
        with monkeypatch.context() as outage:
            for name in ("create_run", "search_runs", "log_batch", "update_run", "set_terminated"):
                outage.setattr(MlflowClient, name, down)
            runs.on_trial_start(0, trials, second)
            for epoch in (1, 2):
                runs.on_trial_result(0, trials, first, {EPOCH: epoch, "top1": epoch / 10, "done": False})
            first.last_result = {EPOCH: 2, "top1": 0.2}
            runs.on_trial_complete(0, trials, first)
        first.ended = True
        runs.on_experiment_end(trials)
        raise KeyboardInterrupt

    with tracked_run(config, str(tmp_path)) as tracker:
        continued = copy.copy(runs)  # as Ray pickles it: without what the session has told
        continued.on_trial_start(0, trials, second)
        client = MlflowClient(tracker.uri)
        found = client.search_runs([tracker.run.info.experiment_id], "tags.`fgvr.trial` != ''")
        assert {run.data.tags["fgvr.trial"]: run.info.status for run in found} == {"a1": "FINISHED", "b2": "RUNNING"}
        continued.on_trial_result(0, trials, second, {EPOCH: 1, "top1": 0.4})
        second.last_result = {EPOCH: 1, "top1": 0.4}
        continued.on_trial_complete(0, trials, second)
        found = client.search_runs([tracker.run.info.experiment_id], "tags.`fgvr.trial` != ''")
    by_trial = {run.data.tags["fgvr.trial"]: run for run in found}
    assert len(found) == 2
    assert {run.info.status for run in found} == {"FINISHED"}
    assert by_trial["a1"].data.params == {"near.lr": "0.1"}
    assert by_trial["b2"].data.tags["fgvr.state"] == "stopped early"
    assert {run.data.tags["mlflow.parentRunId"] for run in found} == {tracker.run_id}
    points = client.get_metric_history(by_trial["a1"].info.run_id, "top1")
    assert [(point.step, point.value) for point in points] == [(1, 0.1), (2, 0.2)]
