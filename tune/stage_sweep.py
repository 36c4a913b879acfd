"""What every swept stage says about itself; `near_sweep` and `makd_sweep` are the two there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from cluster.train import Loop
from fgvr.config import Config
from fgvr.config.base import TrainWorkers
from fgvr.tables import Table
from tune.spaces import Space

EPOCH = "epoch"  # metric of every training loop: epochs done, counted from 1


@dataclass(frozen=True)
class Objective:
    """What a sweep maximises.

    Attributes:
        metric: that the training loop reports.
        meaning: in words, for best.yaml and the console.
        of: the epoch that counts: the last, or the best where the stage keeps the best epoch's model.
    """

    metric: str
    meaning: str
    of: Literal["last", "best"]


@dataclass(frozen=True)
class Training:
    """One training of a trial: a loop of fgvr.training and its argument, which pickles."""

    loop: Loop
    job: Any


class StageSweep(Protocol):
    """A stage that is swept."""

    @property
    def stage(self) -> str:
        """Name of the stage."""
        ...

    @property
    def config(self) -> Config:
        """Of the run; a trial changes the swept fields."""
        ...

    @property
    def objective(self) -> Objective:
        """What is maximised."""
        ...

    @property
    def inputs(self) -> Sequence[Table]:
        """Tables that the trials read."""
        ...

    @property
    def workers(self) -> TrainWorkers:
        """Of a training, as configured."""
        ...

    @property
    def epochs(self) -> int:
        """Of a training that is not stopped early."""
        ...

    @property
    def decides(self) -> Mapping[str, Any]:
        """What decides a trial besides inputs and swept values: parts of the config, how the objective is measured."""
        ...

    def space(self) -> Space:
        """Fields and values that are tried."""
        ...

    def prepare(self, folder: str) -> StageSweep:
        """Write what all trials share into the sweep's folder; returns the sweep as it travels to the trials."""
        ...

    def training(self, config: Config, sweep_folder: str, trial_folder: str) -> Training:
        """A trial's training; called in the trial's own process.

        Args:
            config: with the trial's values.
            sweep_folder: what `prepare` was given.
            trial_folder: a folder of the trial's own.
        """
        ...
