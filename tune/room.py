"""The number of trials that can run at once without waiting for each other's cores.

A trial with one worker trains in its own actor. With several it is an actor that starts them and waits for them; if
such actors took all cores, no worker could ever start. So the number that fits is computed before anything starts.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from cluster import session
from cluster.capacity import Node, cluster_nodes
from cluster.session import SessionError
from fgvr.config.base import TrainWorkers

log = logging.getLogger(__name__)

TRIAL_CPUS = 0.5  # reserved by a trial itself where its workers, several, do all the computing
EPSILON = 1e-9


def trial_resources(workers: TrainWorkers) -> dict[str, float]:
    """What a trial's own actor reserves."""
    if not workers.solo:
        return {"CPU": TRIAL_CPUS}
    return {"CPU": workers.num_cpus, **({"GPU": 1} if workers.use_gpu else {})}


def _own_cpus(workers: TrainWorkers) -> float:
    """Cores that a trial reserves beside those of its workers."""
    return 0.0 if workers.solo else TRIAL_CPUS


@dataclass(frozen=True)
class Room:
    """The resources of the sweep's trials.

    Attributes:
        trials: number of trials at once.
        workers: workers of each trial; on a single machine possibly with fewer cores than configured.
    """

    trials: int
    workers: TrainWorkers


def find_room(field: str, workers: TrainWorkers, asked: int | None) -> Room:
    """How trials with these workers fit on the current cluster.

    Trials are not elastic: if one took what another leaves, their number would depend on chance. On a single machine
    the workers get fewer cores if they would not fit beside their trial: this changes the duration of a trial, not its
    result. A cluster may still grow, so nothing is changed there.

    Args:
        field: config field of the workers, for messages.
        workers: the workers as configured.
        asked: number of trials at once that the user wants; None: as many as fit.

    Raises:
        SessionError: not even one trial can ever run.
    """
    nodes = cluster_nodes()
    workers = workers.model_copy(update={"min_workers": None})
    if session.is_own():
        workers = _shrunk(field, workers, nodes)
    fitting = count_trials(nodes, workers)
    if fitting == 0 and session.is_own():
        raise SessionError(_too_small(field, workers, nodes))
    if fitting == 0:
        log.warning("%s; waiting for the cluster to grow", _too_small(field, workers, nodes))
    if asked is None:
        return Room(max(fitting, 1), workers)
    if workers.solo and not session.is_own():  # trials that wait to be placed take nothing
        return Room(asked, workers)
    allowed = max(fitting, 1) if session.is_own() else max(most_waiting(nodes, workers), 1)
    if asked > allowed:
        log.warning(
            "--max-concurrent %d: %d at once, more would take the cores that their workers need", asked, allowed
        )
    return Room(min(asked, allowed), workers)


def count_trials(nodes: list[Node], workers: TrainWorkers) -> int:
    """Number of trials that fit at once, each with its actor and all its workers; found by placing them one by one."""
    free = [[node.cpus, node.gpus] for node in nodes]
    gpus = 1.0 if workers.use_gpu else 0.0
    bundles = [(workers.num_cpus, gpus)] * workers.num_workers + [(_own_cpus(workers), 0.0)]
    count = 0
    while all(_place(free, cpus, gpus) for cpus, gpus in bundles):
        count += 1
    return count


def most_waiting(nodes: list[Node], workers: TrainWorkers) -> int:
    """Number of trials that may start at once so that the workers of at least one still fit."""
    cpus = sum(node.cpus for node in nodes) - workers.num_workers * workers.num_cpus
    return max(0, math.floor(cpus / TRIAL_CPUS + EPSILON))


def _place(free: list[list[float]], cpus: float, gpus: float) -> bool:
    """Reserve resources on the node with the least left over, like Ray's default placement, which packs."""
    fits = [node for node in free if node[0] + EPSILON >= cpus and node[1] + EPSILON >= gpus]
    if not fits:
        return False
    best = min(fits, key=lambda node: (node[1], node[0]))
    best[0] -= cpus
    best[1] -= gpus
    return True


def _shrunk(field: str, workers: TrainWorkers, nodes: list[Node]) -> TrainWorkers:
    """The workers with only the cores that one trial leaves for them."""
    left = (max(node.cpus for node in nodes) - _own_cpus(workers)) / workers.num_workers
    if left >= workers.num_cpus or left <= 0:
        return workers
    cores = float(math.floor(left)) if left >= 1 else left
    log.info(
        "%s.num_cpus = %g for the trials, instead of %g, so that a trial fits on this machine",
        field,
        cores,
        workers.num_cpus,
    )
    return workers.model_copy(update={"num_cpus": cores})


def _too_small(field: str, workers: TrainWorkers, nodes: list[Node]) -> str:
    own = _own_cpus(workers)
    itself = f", and {own:g} for itself" if own else ""
    gpus = f" and {workers.num_workers} GPUs" if workers.use_gpu else ""
    has_gpus = f" and {sum(node.gpus for node in nodes):g} GPUs" if workers.use_gpu else ""
    return (
        f"a trial needs {workers.num_workers * workers.num_cpus + own:g} CPU cores{gpus} ({field}.num_workers = "
        f"{workers.num_workers} of {workers.num_cpus:g} cores{itself}), but there are "
        f"{sum(node.cpus for node in nodes):g} cores{has_gpus}"
    )
