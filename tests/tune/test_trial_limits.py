"""A trial runs in a process of Ray's own: what its run was given travels with its plan."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle

from cluster import session
from fgvr.config import build
from fgvr.config.base import TrainWorkers
from fgvr.config.run import Cluster, Limits
from tune.spaces import Training
from tune.trials import TrialPlan, run_trial

PATIENT = Limits(start_minutes=240, silent_minutes=240, place_minutes=600)


def no_loop(job: Any, reporter: Any) -> None:
    """Trains nothing."""


@dataclass(frozen=True)
class NoSweep:
    """Stands for a stage's sweep."""

    stage: str = "near"
    config: Any = field(default_factory=lambda: build({}))

    def training(self, config: Any, sweep_folder: str, trial_folder: str) -> Training:
        return Training(no_loop, None)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments of the training that a trial started."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr("tune.trials.train", lambda *_, **options: seen.update(options))
    monkeypatch.setattr("tune.trials.train_here", lambda *_, **options: seen.update(options))
    monkeypatch.setattr("ray.tune.integration.ray_train.TuneReportCallback", SimpleNamespace)
    monkeypatch.setattr("ray.tune.get_context", lambda: SimpleNamespace(get_trial_id=lambda: "a1"))
    return seen


@pytest.mark.parametrize("workers", [1, 2])
def test_the_limits_of_the_run_reach_a_trials_training(trained, tmp_path, workers) -> None:
    plan = TrialPlan(NoSweep(), str(tmp_path), TrainWorkers(num_workers=workers), PATIENT)
    run_trial({}, cloudpickle.loads(cloudpickle.dumps(plan)))
    assert trained["limits"] == PATIENT


def test_a_plan_made_by_the_driver_has_its_sessions_limits(trained, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("cluster.session.ray.is_initialized", lambda: True)
    with session.ray_session(Cluster(limits=PATIENT)):
        plan = TrialPlan(NoSweep(), str(tmp_path), TrainWorkers())
    run_trial({}, plan)  # elsewhere
    assert trained["limits"] == PATIENT
