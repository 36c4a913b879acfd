"""What a sweep varies: config fields by their dotted names, and the values that are tried for each.

Ranges are set around the papers' values, not around the demo's. A field that the config makes meaningless is left
out, so that no trials are spent on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ray import tune
from ray.tune.search.sample import Categorical, Domain, Float

from cluster.train import Loop
from fgvr.config import Config, as_given, build
from fgvr.config.base import TrainWorkers
from fgvr.tables import Table

Space = dict[str, Domain]

K = (1, 2, 3, 5, 8, 12)
CONTEXT_LENGTHS = (4, 8, 16)
LOSSES = ("proden", "cc", "rc", "gce", "ce")
Q = (10, 20, 30, 50)  # the paper's


def near_space(config: Config, images: int) -> Space:
    """Learning rate, k, loss and context length (NeaR's paper: CoOp's 0.002, 3, PRODEN, 16).

    Args:
        config: decides which fields mean something: candidate sets without neighbours have no k, and a phrase that
            starts the context has its own length. Its values are always among those tried.
        images: learned from; no set has more neighbours than there are.
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
    """Learning rate, weight of the aspects, and how many questions, the first by rank (paper: 0.01, 4, 10 to 50).

    Args:
        config: its values are always among those tried.
        asked: questions that were asked; the paper's numbers below it are tried, and all of them.
    """
    return {
        "makd.lr": _log_range(1e-3, 0.3, config.makd.lr),
        "makd.alpha": _log_range(0.25, 32.0, config.makd.alpha),
        "makd.questions": _choice([*(count for count in Q if count < asked), asked], config.makd.questions or asked),
    }


def start_of(config: Config, space: Space) -> dict[str, Any]:
    """The config's own values of the swept fields: the first trial, so that the best is never worse than they are."""
    tree = config.model_dump(mode="json")
    start = {}
    for path, domain in space.items():
        value = tree
        for part in path.split("."):
            value = value[part]
        # Without a number of questions the config means all of them, the largest choice.
        start[path] = max(domain.categories) if value is None and isinstance(domain, Categorical) else value
    return start


def describe(space: Space) -> dict[str, str]:
    """The space as text, for its fingerprint."""
    return {
        path: str(domain.categories) if isinstance(domain, Categorical) else f"log {domain.lower} … {domain.upper}"
        for path, domain in space.items()
    }


def _log_range(low: float, high: float, own: float) -> Float:
    return tune.loguniform(min(low, own), max(high, own))


def _choice(values: Sequence[Any], own: Any) -> Categorical:
    return tune.choice(list(values) if own in values else [*values, own])


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with other values of some fields, by their dotted names; raises ConfigError for wrong ones."""
    tree = as_given(config)
    for path, value in values.items():
        *parts, name = path.split(".")
        place = tree
        for part in parts:
            place = place[part]
        place[name] = value
    return build(tree)


# What every swept stage says about itself; `near_sweep` and `makd_sweep` are the two there are.

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
