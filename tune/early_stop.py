"""Early stopping in which a trial that is behind ends its own training run.

Ray Tune stops a trial by killing its actor. A training run that the actor started under Ray Train does not notice:
its cores stay reserved until Ray's dashboard finds that its controller is gone, and for ever where there is no
dashboard (as in a session on this machine) or where two Ray sessions share a machine. The next trial then waits for
these cores. So the scheduler only writes a mark to the trial's folder. The training run looks for it after every
report, ends as if it were done, and releases everything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from cluster.train_worker import Loop
from fgvr import storage
from fgvr.training.reporter import Reporter

MARK = "stop"
TRIALS = "trials"
"""The folder of all trials of a sweep."""


def trial_folder(sweep_folder: str, trial_id: str) -> str:
    """The folder of a trial's checkpoints while it runs; a continued sweep finds them by the trial's id."""
    return storage.join(sweep_folder, TRIALS, trial_id)


def is_stopped(folder: str) -> bool:
    """Whether the trial in this folder is marked to end, or has ended, before its last epoch."""
    return storage.exists(storage.join(folder, MARK))


class MarkingAsha(ASHAScheduler):  # type: ignore[misc]
    """Ray Tune's ASHA (Li et al. 2020), with a mark instead of a kill.

    Args:
        sweep_folder: folder of the sweep.
        options: options of ASHAScheduler.
    """

    def __init__(self, sweep_folder: str, **options: Any) -> None:
        super().__init__(**options)
        self.sweep_folder = sweep_folder

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Mark a trial that is behind, but never let Ray Tune stop it."""
        if super().on_trial_result(tune_controller, trial, result) == TrialScheduler.STOP:
            storage.write_bytes(storage.join(trial_folder(self.sweep_folder, trial.trial_id), MARK), b"")
        return str(TrialScheduler.CONTINUE)


class StoppedEarly(Exception):
    """Raised at a report to leave the training loop."""


class StoppableReporter:
    """A reporter (`fgvr.training.reporter.Reporter`) that can leave the loop, on all ranks at the same report."""

    def __init__(self, reporter: Reporter, folder: str) -> None:
        self.reporter, self.folder = reporter, folder
        self.rank, self.world_size, self.device = reporter.rank, reporter.world_size, reporter.device

    def resume_folder(self) -> Path | None:
        """See `Reporter`."""
        return self.reporter.resume_folder()

    def report(self, metrics: dict[str, float], save: Callable[[Path], None] | None = None) -> None:
        """See `Reporter`; raises StoppedEarly when the trial is marked to end."""
        self.reporter.report(metrics, save)
        stop = torch.tensor([float(self.rank == 0 and is_stopped(self.folder))], device=self.device)
        if self.world_size > 1:
            torch.distributed.broadcast(stop, 0)
        if stop.item():
            raise StoppedEarly


@dataclass(frozen=True)
class StoppableJob:
    """A training run that may end early: a loop, its argument, and the trial's folder."""

    loop: Loop
    job: Any
    folder: str


def train_stoppable(job: StoppableJob, reporter: Reporter) -> None:
    """Train to the end, or to the report after which the trial is marked as behind."""
    try:
        job.loop(job.job, StoppableReporter(reporter, job.folder))
    except StoppedEarly:
        return
