"""What a sweep varies: config fields by their dotted names, and the values to try for each.

Ranges are centred on the papers' values, not on the demo's. A field that has no effect with this config is left out, so
that no trials are wasted on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ray import tune
from ray.tune.search.sample import Categorical, Domain, Float

from cluster.train_worker import Loop
from fgvr.config import Config, as_given, build
from fgvr.config.base import TrainWorkers
from fgvr.tables import Table

Space = dict[str, Domain]

K = (1, 2, 3, 5, 8, 12)
CONTEXT_LENGTHS = (4, 8, 16)
LOSSES = ("proden", "cc", "rc", "gce", "ce")
HEAD_LOSSES = ("gce", "ce", "balanced", "seesaw")  # of own labels: candidate sets would have to be made anew
NETWORKS = ("cosine", "linear", "mlp")
Q = (10, 20, 30, 50)  # the paper's values


def near_space(config: Config, images: int) -> Space:
    """Learning rate, k, loss and context length (NeaR's paper: CoOp's 0.002, 3, PRODEN, 16).

    Args:
        config: decides which fields have an effect: candidate sets without neighbours have no k, and a phrase that
            starts the context sets its length. Its values are always among those tried.
        images: number of training images; no set has more neighbours than that.
    """
    space: Space = {
        "near.lr": _log_range(5e-4, 0.5, config.near.lr),
        "near.loss": _choice(LOSSES, config.near.loss),
    }
    if config.candidates.method in {"neighbours", "random"}:
        space["candidates.k"] = _choice([k for k in K if k <= images], config.candidates.k)
    if config.near.context_init is None:
        space["near.context_length"] = _choice(CONTEXT_LENGTHS, config.near.context_length)
    return space


def makd_space(config: Config, asked: int) -> Space:
    """Learning rate, weight of the aspects, and number of questions, taken by rank (paper: 0.01, 4, 10 to 50).

    Args:
        config: its values are always among those tried.
        asked: number of questions with answers; the paper's smaller numbers and this one are tried.
    """
    low, high = (1e-3, 0.3) if config.makd.optimizer == "sgd" else (1e-5, 1e-2)
    return {
        "makd.lr": _log_range(low, high, config.makd.lr),
        "makd.alpha": _log_range(0.25, 32.0, config.makd.alpha),
        "makd.questions": _choice([*(count for count in Q if count < asked), asked], config.makd.questions or asked),
    }


def heads_space(config: Config) -> Space:
    """Learning rate, loss, network, and whether vectors are whitened.

    Args:
        config: its values are always among those tried.
    """
    space: Space = {
        "heads.lr": _log_range(1e-3, 0.1, config.heads.lr),
        "heads.loss": _choice(HEAD_LOSSES, config.heads.loss),
    }
    if config.heads.start != "text":  # a start at texts needs a cosine head and vectors as they are
        space["heads.network"] = _choice(NETWORKS, config.heads.network)
        space["heads.whiten"] = _choice((True, False), config.heads.whiten)
    return space


def start_of(config: Config, space: Space) -> dict[str, Any]:
    """The config's own values of the swept fields: the first trial, so that the best trial is never worse."""
    tree = config.model_dump(mode="json")
    start = {}
    for path, domain in space.items():
        value = tree
        for part in path.split("."):
            value = value[part]
        # A config without a number of questions means all of them, the largest choice.
        start[path] = max(domain.categories) if value is None and isinstance(domain, Categorical) else value
    return start


def describe(space: Space) -> dict[str, str]:
    """The space as text, for the fingerprint."""
    return {
        path: str(domain.categories) if isinstance(domain, Categorical) else f"log {domain.lower} … {domain.upper}"
        for path, domain in space.items()
    }


def _log_range(low: float, high: float, own: float) -> Float:
    return tune.loguniform(min(low, own), max(high, own))


def _choice(values: Sequence[Any], own: Any) -> Categorical:
    return tune.choice(list(values) if own in values else [*values, own])


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with new values of some fields, by their dotted names; raises ConfigError for wrong ones."""
    tree = as_given(config)
    for path, value in values.items():
        *parts, name = path.split(".")
        place = tree
        for part in parts:
            place = place[part]
        place[name] = value
    return build(tree)


# What every swept stage declares; `near_sweep` and `makd_sweep` implement it.

EPOCH = "epoch"  # metric of every training loop: epochs done, counted from 1


@dataclass(frozen=True)
class Objective:
    """What a sweep maximises.

    Attributes:
        metric: a metric that the training loop reports.
        meaning: its description, for best.yaml and the console.
        of: which epoch counts: the last, or the best where the stage keeps the best epoch's model.
    """

    metric: str
    meaning: str
    of: Literal["last", "best"]


@dataclass(frozen=True)
class Training:
    """The training run of a trial: a loop of fgvr.training and its argument, which must pickle."""

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
        """The config of the run; a trial changes the swept fields."""
        ...

    @property
    def objective(self) -> Objective:
        """The objective to maximise."""
        ...

    @property
    def inputs(self) -> Sequence[Table]:
        """Tables that the trials read."""
        ...

    @property
    def workers(self) -> TrainWorkers:
        """The workers of one training run, as configured."""
        ...

    @property
    def epochs(self) -> int:
        """The epochs of a training run that is not stopped early."""
        ...

    @property
    def decides(self) -> Mapping[str, Any]:
        """What decides a trial besides inputs and swept values: parts of the config, and how the objective is made."""
        ...

    def space(self) -> Space:
        """The fields and the values to try."""
        ...

    def prepare(self, folder: str) -> StageSweep:
        """Write what all trials share to the sweep's folder; returns the sweep as it is sent to the trials."""
        ...

    def training(self, config: Config, sweep_folder: str, trial_folder: str) -> Training:
        """The training run of a trial; called in the trial's own process.

        Args:
            config: the config with the trial's values.
            sweep_folder: the folder that `prepare` wrote to.
            trial_folder: the folder of the trial.
        """
        ...
