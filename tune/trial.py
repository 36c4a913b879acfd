"""One trial: a training of fgvr with the trial's values, under Ray Train, whose reports Ray Tune sees."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cluster import session
from cluster.lease import Fence
from cluster.stage_files import TRAINING
from cluster.train import NoCheckpoint, train
from fgvr.config.base import TrainWorkers
from fgvr.config.run import Limits
from tune.early_stop import StoppableJob, is_stopped, train_stoppable, trial_folder
from tune.spaces import with_values
from tune.stage_sweep import StageSweep

RESTARTS = 1  # after a worker died; what fails twice in the same way is the trial's own fault


@dataclass(frozen=True)
class TrialPlan:
    """What is the same for all trials.

    Attributes:
        sweep: the stage that is swept.
        folder: of the sweep.
        workers: of a training.
        limits: longest waits, of the run; the driver knows them, a trial's process does not.
        fence: of the run; None where nobody owns it.
    """

    sweep: StageSweep
    folder: str
    workers: TrainWorkers
    limits: Limits = field(default_factory=session.limits)
    fence: Fence | None = None


def run_trial(values: dict[str, Any], plan: TrialPlan) -> None:
    """The function that Ray Tune calls in an actor of its own for every trial.

    `Tuner(TorchTrainer(...))` is an error since Ray Train v2: the trainer is started in here instead, its workers
    reserve cores of their own, and a callback hands their reports on. A trial that was interrupted goes on from its
    training's last checkpoint (Tune itself has none).
    """
    import ray.tune
    from ray.tune.integration.ray_train import TuneReportCallback

    folder = trial_folder(plan.folder, ray.tune.get_context().get_trial_id())
    training = plan.sweep.training(with_values(plan.sweep.config, values), plan.folder, folder)
    limit = plan.workers.max_failures
    workers = plan.workers.model_copy(update={"max_failures": RESTARTS if limit < 0 else min(limit, RESTARTS)})
    job = StoppableJob(training.loop, training.job, folder)
    try:
        train(
            train_stoppable,
            job,
            name=TRAINING,
            folder=folder,
            workers=workers,
            field=f"{plan.sweep.stage}.workers",
            callbacks=[TuneReportCallback()],
            fence=plan.fence,
            limits=plan.limits,
        )
    except NoCheckpoint:
        if not is_stopped(folder):
            raise
