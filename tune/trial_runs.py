"""A sweep as others see it while it runs: one MLflow run a trial below the run's own, and a line on the console.

Ray keeps a pickled copy of its callbacks, with which a sweep is continued later; so this one holds nothing of the
session. The parent is the MLflow run that is active, and a trial's run is found again by its tags.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.tune.experiment import Trial
from ray.tune.result import AUTO_RESULT_KEYS

from cluster import lease
from fgvr.errors import user_error_in
from tune.stage_sweep import EPOCH, Objective

log = logging.getLogger(__name__)

OF_TUNE = {*AUTO_RESULT_KEYS, "done", "trial_id", "experiment_tag", "checkpoint_path", "should_checkpoint"}
SWEEP_TAG, TRIAL_TAG, STATE_TAG = "fgvr.sweep", "fgvr.trial", "fgvr.state"


def measured(result: dict[str, Any]) -> dict[str, float]:
    """The training's own numbers in a result of Ray Tune, without what Tune adds and what is not finite."""
    numbers = {name: value for name, value in result.items() if name not in OF_TUNE}
    return {
        name: float(value)
        for name, value in numbers.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def cause(trial: Trial) -> str:
    """Why a trial failed, in a line: what the user can mend where that is the cause, else the innermost error."""
    error = _error(trial)
    known = user_error_in(error) if isinstance(error, BaseException) else None
    if known is not None:
        return " ".join(str(known).split())
    lines = [line.strip() for line in str(error or "unknown").splitlines() if line.strip()]
    return lines[-1] if lines else "unknown"


def _error(trial: Trial) -> BaseException | str | None:
    """The error itself, or its text where it did not pickle."""
    here = trial.pickled_error_file  # on this machine; Ray copies it to the sweep's folder some time later
    if here is not None and Path(here).is_file():
        found: BaseException = cloudpickle.loads(Path(here).read_bytes())
        return found
    stored: BaseException | str | None = trial.get_pickled_error() or trial.get_error()
    return stored


class TrialRuns(tune.Callback):  # type: ignore[misc]
    """Tells MLflow and the console about trials.

    Args:
        stage: that is swept.
        sweep: its fingerprint.
        trials: in all.
        epochs: of a whole training.
        objective: what is maximised.
    """

    def __init__(self, stage: str, sweep: str, trials: int, epochs: int, objective: Objective) -> None:
        self.stage, self.sweep, self.trials, self.epochs, self.objective = stage, sweep, trials, epochs, objective
        self._runs: dict[str, str] = {}  # trial → MLflow run; empty in the copy that Ray keeps

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Open the trial's run, or open it again."""
        from mlflow import MlflowClient

        client = MlflowClient()
        run_id = self._find(client, trial)
        if run_id is not None:
            client.update_run(run_id, status="RUNNING")
            return
        parent = self._parent(client)
        tags = {
            "mlflow.parentRunId": parent.info.run_id,
            SWEEP_TAG: f"{self.stage}/{self.sweep}",
            TRIAL_TAG: trial.trial_id,
            STATE_TAG: "running",
        }
        name = f"{self.stage} trial {self._number(trials, trial)}"
        run = client.create_run(parent.info.experiment_id, tags=tags, run_name=name)
        self._runs[trial.trial_id] = run.info.run_id
        for field, value in trial.config.items():
            client.log_param(run.info.run_id, field, value)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Keep the metrics of an epoch."""
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        client = MlflowClient()
        run_id = self._find(client, trial)
        if run_id is not None:
            now, step = int(time.time() * 1000), int(result.get(EPOCH, 0))
            client.log_batch(run_id, [Metric(name, value, now, step) for name, value in measured(result).items()])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Close the run of a trial that trained to its end or was stopped because others are better."""
        done = int(trial.last_result.get(EPOCH, 0))
        self._close(trial, "FINISHED", "finished" if done >= self.epochs else "stopped early")
        value = trial.last_result.get(self.objective.metric, float("nan"))
        stopped = "" if done >= self.epochs else f", stopped after {done} of {self.epochs} epochs"
        log.info("%s: %s %.4f%s", self._head(trials, trial), self.objective.metric, value, stopped)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Close the run of a trial that failed; the sweep goes on."""
        why = cause(trial)
        self._close(trial, "FAILED", "failed", {"fgvr.error": why[:500]})
        log.warning("%s failed: %s", self._head(trials, trial), why)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Mark the runs of trials that were interrupted; they go on when the sweep is continued."""
        for trial in trials:
            if not trial.is_finished():
                self._close(trial, "KILLED", "interrupted")

    def _close(self, trial: Trial, status: str, state: str, tags: dict[str, str] | None = None) -> None:
        from mlflow import MlflowClient

        if lease.is_lost():  # its run is the new owner's to end
            return
        client = MlflowClient()
        run_id = self._find(client, trial)
        if run_id is None:
            return
        for name, text in {STATE_TAG: state, **(tags or {})}.items():
            client.set_tag(run_id, name, text)
        client.set_terminated(run_id, status)

    def _parent(self, client: Any) -> Any:
        import mlflow

        active = mlflow.active_run()
        if active is None:
            raise RuntimeError("a sweep needs the MLflow run of its pipeline to be active")
        return client.get_run(active.info.run_id)

    def _find(self, client: Any, trial: Trial) -> str | None:
        if trial.trial_id in self._runs:
            return self._runs[trial.trial_id]
        parent = self._parent(client)
        wanted = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' and tags.`{TRIAL_TAG}` = '{trial.trial_id}'"
        found = client.search_runs([parent.info.experiment_id], wanted, max_results=1)
        if found:
            self._runs[trial.trial_id] = str(found[0].info.run_id)
        return self._runs.get(trial.trial_id)

    def _number(self, trials: list[Trial], trial: Trial) -> int:
        return 1 + next(place for place, other in enumerate(trials) if other.trial_id == trial.trial_id)

    def _head(self, trials: list[Trial], trial: Trial) -> str:
        values = ", ".join(f"{field} {_short(value)}" for field, value in trial.config.items())
        return f"{self.stage} trial {self._number(trials, trial)} of {self.trials} ({values})"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
