"""Trials: training runs with a trial's values, whose reports go to Ray Tune and MLflow."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.tune.experiment import Trial
from ray.tune.result import AUTO_RESULT_KEYS

from cluster import session
from cluster.lease import Fence
from cluster.outbox import RUNNING, Note
from cluster.stage_files import TRAINING
from cluster.tracking import Tracker, current
from cluster.tracking_names import flat, named, names_tag
from cluster.train import NoCheckpoint, train, train_here
from fgvr import storage
from fgvr.config.base import TrainWorkers
from fgvr.config.run import Limits
from fgvr.errors import UserError, user_error_in
from tune.early_stop import StoppableJob, is_stopped, train_stoppable, trial_folder
from tune.spaces import EPOCH, Objective, StageSweep, with_values

log = logging.getLogger(__name__)


# One trial: a training run with the trial's values, whose reports go to Ray Tune. One worker is the trial's own actor;
# several are started by Ray Train, and the actor waits for them.

REFUSED_FILE = "refused.txt"
"""In a trial's folder: what the user has to fix, so that the trial is not tried again."""
RESTARTS = 1  # after a worker's death; a second failure of the same kind is the trial's own fault


@dataclass(frozen=True)
class TrialPlan:
    """What all trials share.

    Attributes:
        sweep: the stage to sweep.
        folder: folder of the sweep.
        workers: workers of one training run.
        limits: the run's longest waits, which the driver knows, but not a trial's process.
        fence: fence of the run; None where it has no owner.
    """

    sweep: StageSweep
    folder: str
    workers: TrainWorkers
    limits: Limits = field(default_factory=session.limits)
    fence: Fence | None = None


def run_trial(values: dict[str, Any], plan: TrialPlan) -> None:
    """The function that Ray Tune calls for every trial, in an actor of its own.

    An interrupted trial, or one whose process died, resumes from the last checkpoint of its training run; Ray Tune
    itself has none.
    """
    import ray.tune

    folder = trial_folder(plan.folder, ray.tune.get_context().get_trial_id())
    refusal = storage.join(folder, REFUSED_FILE)
    if storage.exists(refusal):  # Ray Tune starts a failed trial again, but this one would fail again
        raise UserError(storage.read_bytes(refusal).decode())
    try:
        _train(values, plan, folder)
    except UserError as error:
        storage.write_bytes(refusal, str(error).encode())
        raise


def _train(values: dict[str, Any], plan: TrialPlan, folder: str) -> None:
    training = plan.sweep.training(with_values(plan.sweep.config, values), plan.folder, folder)
    job = StoppableJob(training.loop, training.job, folder)
    run = _run_here if plan.workers.solo else _run_in_group
    try:
        run(plan, job, folder)
    except NoCheckpoint:
        if not is_stopped(folder):
            raise


def _run_here(plan: TrialPlan, job: StoppableJob, folder: str) -> None:
    import ray.tune

    train_here(
        train_stoppable,
        job,
        name=TRAINING,
        folder=folder,
        workers=plan.workers,
        on_report=ray.tune.report,
        fence=plan.fence,
        limits=plan.limits,
    )


def _run_in_group(plan: TrialPlan, job: StoppableJob, folder: str) -> None:
    """`Tuner(TorchTrainer(...))` is an error since Ray Train v2, so the trainer is started here, its workers reserve
    their own cores, and a callback passes their reports on.
    """
    from ray.tune.integration.ray_train import TuneReportCallback

    train(
        train_stoppable,
        job,
        name=TRAINING,
        folder=folder,
        workers=plan.workers.model_copy(update={"max_failures": restarts(plan.workers)}),
        field=f"{plan.sweep.stage}.workers",
        callbacks=[TuneReportCallback()],
        fence=plan.fence,
        limits=plan.limits,
    )


def restarts(workers: TrainWorkers) -> int:
    """How often a trial's training is started again after it failed."""
    return RESTARTS if workers.max_failures < 0 else min(workers.max_failures, RESTARTS)


# The progress of a sweep: one MLflow run per trial below the pipeline's run, and lines on the console.
# Ray keeps a pickled copy of its callbacks, with which a sweep is continued later; so this callback holds nothing of
# the session. Everything for MLflow goes through the tracker of the open run, which keeps it if MLflow does not accept
# it; a trial's MLflow run is found again by its tags.

OF_TUNE = {*AUTO_RESULT_KEYS, "done", "trial_id", "experiment_tag", "checkpoint_path", "should_checkpoint"}
SWEEP_TAG, TRIAL_TAG, STATE_TAG = "fgvr.sweep", "fgvr.trial", "fgvr.state"


def measured(result: dict[str, Any]) -> dict[str, float]:
    """The finite metrics of the training run in a result of Ray Tune, without Tune's own metrics."""
    numbers = {name: value for name, value in result.items() if name not in OF_TUNE}
    return {
        name: float(value)
        for name, value in numbers.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def cause(trial: Trial) -> str:
    """Why a trial failed, in one line: the cause that the user can fix, or else the innermost error."""
    error = _error(trial)
    known = user_error_in(error) if isinstance(error, BaseException) else None
    if known is not None:
        return " ".join(str(known).split())
    lines = [line.strip() for line in str(error or "unknown").splitlines() if line.strip()]
    return lines[-1] if lines else "unknown"


def _error(trial: Trial) -> BaseException | str | None:
    """The error, or its text where it did not pickle."""
    here = trial.pickled_error_file  # on this machine; Ray copies it to the sweep's folder later
    if here is not None and Path(here).is_file():
        found: BaseException = cloudpickle.loads(Path(here).read_bytes())
        return found
    stored: BaseException | str | None = trial.get_pickled_error() or trial.get_error()
    return stored


class TrialRuns(tune.Callback):  # type: ignore[misc]
    """Reports trials to MLflow and to the console.

    Args:
        stage: the stage to sweep.
        sweep: fingerprint of the sweep.
        trials: total number of trials.
        epochs: epochs of a whole training run.
        objective: the objective to maximise.
    """

    def __init__(self, stage: str, sweep: str, trials: int, epochs: int, objective: Objective) -> None:
        self.stage, self.sweep, self.trials, self.epochs, self.objective = stage, sweep, trials, epochs, objective
        self._notes: dict[str, Note] = {}  # per trial; empty in Ray's copy

    def __getstate__(self) -> dict[str, Any]:
        """The state without what this session has sent."""
        return self.__dict__ | {"_notes": {}}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Open or reopen the trial's MLflow run."""
        note = self._note(trials, trial)
        note.status, note.ended, note.untold = RUNNING, None, True
        note.news.params, renamed = named(flat(trial.config))
        note.news.tag({SWEEP_TAG: f"{self.stage}/{self.sweep}", STATE_TAG: "running"})
        note.news.tags |= names_tag(renamed)
        self._tracker().tell(note)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Log the metrics of an epoch."""
        note = self._note(trials, trial)
        note.news.measure(measured(result), step=int(result.get(EPOCH, 0)))
        self._tracker().tell(note)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Close the MLflow run of a trial that finished or was stopped because others were better."""
        done = int(trial.last_result.get(EPOCH, 0))
        self._close(trials, trial, "FINISHED", "finished" if done >= self.epochs else "stopped early")
        value = trial.last_result.get(self.objective.metric, float("nan"))
        stopped = "" if done >= self.epochs else f", stopped after {done} of {self.epochs} epochs"
        log.info("%s: %s %.4f%s", self._head(trials, trial), self.objective.metric, value, stopped)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Close the MLflow run of a failed trial; the sweep continues."""
        why = cause(trial)
        self._close(trials, trial, "FAILED", "failed", {"fgvr.error": why[:500]})
        log.warning("%s failed: %s", self._head(trials, trial), why)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Mark the MLflow runs of interrupted trials, which resume when the sweep is continued."""
        for trial in trials:
            if not trial.is_finished():
                self._close(trials, trial, "KILLED", "interrupted")

    def _close(
        self, trials: list[Trial], trial: Trial, status: str, state: str, tags: dict[str, str] | None = None
    ) -> None:
        note = self._note(trials, trial)
        note.news.tag({STATE_TAG: state, **(tags or {})})
        note.end(status)
        self._tracker().tell(note)

    def _tracker(self) -> Tracker:
        tracker = current()
        if tracker is None:
            raise RuntimeError("a sweep needs the run of its pipeline to be open")
        return tracker

    def _note(self, trials: list[Trial], trial: Trial) -> Note:
        if trial.trial_id not in self._notes:
            name = f"{self.stage} trial {self._number(trials, trial)}"
            # An earlier session may have started it.
            self._notes[trial.trial_id] = Note(name, (TRIAL_TAG, str(trial.trial_id)), asked=True)
        return self._notes[trial.trial_id]

    def _number(self, trials: list[Trial], trial: Trial) -> int:
        return 1 + next(place for place, other in enumerate(trials) if other.trial_id == trial.trial_id)

    def _head(self, trials: list[Trial], trial: Trial) -> str:
        values = ", ".join(f"{field} {_short(value)}" for field, value in trial.config.items())
        return f"{self.stage} trial {self._number(trials, trial)} of {self.trials} ({values})"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
