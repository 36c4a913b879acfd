"""Check that the workers of a stage fit on the cluster: Ray would wait for a missing core for ever, and log little."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cluster import session
from cluster.session import SessionError
from fgvr.config.base import TrainWorkers, Workers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Node:
    """The resources of one machine of the cluster: cores, GPUs, GiB of memory, and its accelerator types."""

    cpus: float
    gpus: float
    memory_gb: float
    accelerators: frozenset[str] = frozenset()

    def with_more(self, each: Demand, count: int) -> Node:
        """The same machine with the resources of `count` placed workers freed."""
        return Node(
            self.cpus + count * each.cpus,
            self.gpus + count * each.gpus,
            self.memory_gb + count * each.memory_gb,
            self.accelerators,
        )


@dataclass(frozen=True)
class Demand:
    """What each worker of a stage reserves; `count` of them, as `field` says, must run at the same time."""

    count: int
    cpus: float
    gpus: float
    memory_gb: float = 0
    accelerator: str | None = None
    field: str = "num_workers"


def demand_of(workers: Workers | TrainWorkers) -> Demand:
    """Row-parallel stages can start with one worker; training needs all its workers at once, or its minimum."""
    if isinstance(workers, TrainWorkers):
        gpus = 1 if workers.use_gpu else 0
        if workers.min_workers is not None:
            return Demand(workers.min_workers, workers.num_cpus, gpus, field="min_workers")
        return Demand(workers.num_workers, workers.num_cpus, gpus)
    return Demand(1, workers.num_cpus, workers.num_gpus, workers.memory_gb or 0, workers.accelerator_type)


def shortage(demand: Demand, nodes: list[Node]) -> str | None:
    """Why `demand` cannot be met, starting with the field that asks for too much; None where it can."""
    if demand.accelerator is not None:
        nodes = [node for node in nodes if demand.accelerator in node.accelerators]
        if not nodes:
            return f"accelerator_type = {demand.accelerator}: no node has one"
    most_gpus, most_cpus = max(node.gpus for node in nodes), max(node.cpus for node in nodes)
    if demand.gpus > most_gpus:
        return f"num_gpus = {demand.gpus:g}: no node has more than {most_gpus:g} GPUs"
    if demand.cpus > most_cpus:
        return f"num_cpus = {demand.cpus:g}: no node has more than {most_cpus:g} CPU cores"
    if demand.memory_gb > (most := max(node.memory_gb for node in nodes)):
        return f"memory_gb = {demand.memory_gb:g}: no node has more than {most:.1f} GiB for workers"
    places = sum(places_on(demand, node) for node in nodes)
    if demand.count > places:
        return f"{demand.field} = {demand.count}: the cluster has room for {places} workers of this size"
    return None


def places_on(demand: Demand, node: Node) -> int:
    """Number of workers that fit on a machine, or on a cluster taken as one machine."""
    asked = ((demand.cpus, node.cpus), (demand.gpus, node.gpus), (demand.memory_gb, node.memory_gb))
    return min(int(has / wanted + 1e-9) for wanted, has in asked if wanted > 0)


def reserved(workers: Workers) -> dict[str, Any]:
    """What each of `workers` reserves, as options of a Ray task or actor."""
    return {
        "num_cpus": workers.num_cpus,
        "num_gpus": workers.num_gpus or None,
        "accelerator_type": workers.accelerator_type,
        "memory": None if workers.memory_gb is None else int(workers.memory_gb * 2**30),
    }


def places(workers: Workers) -> int | None:
    """Number of workers that fit on the otherwise empty cluster; None where the cluster may grow."""
    if not session.is_own():
        return None
    return sum(places_on(demand_of(workers), node) for node in cluster_nodes())


def check_capacity(field: str, workers: Workers | TrainWorkers) -> None:
    """Raise SessionError where the workers configured at `field` can never start.

    A session on this machine never grows. A cluster with an autoscaler does, and it is not visible from outside whether
    there is one: on a cluster this is only a warning, so that a waiting run says what it waits for.
    """
    nodes = cluster_nodes()
    problem = shortage(demand_of(workers), nodes)
    if problem is None:
        return
    if no_workers(nodes) and not session.is_own():
        log.info("%s: no worker node is up; waiting for the cluster to start some (%s)", field, _asked(workers))
        return
    if session.is_own():
        raise SessionError(f"{field}.{problem}. Lower it, or raise cluster.num_cpus / cluster.num_gpus")
    log.warning("%s.%s now; waiting for the cluster to grow", field, problem)


def no_workers(nodes: list[Node]) -> bool:
    """Whether there is only a head without cores, as before an autoscaler has started a node."""
    return all(node.cpus == 0 and node.gpus == 0 for node in nodes)


def wanted(workers: Workers | TrainWorkers) -> str:
    """What one worker reserves and what is free in the cluster now, as text."""
    free = free_in_cluster()
    left = f"{free.cpus:g} CPU cores, {free.gpus:g} GPUs and {free.memory_gb:.1f} GiB"
    return f"{_asked(workers)} (free in the cluster now: {left})"


def free_in_cluster() -> Node:
    """Unreserved resources over all machines."""
    import ray

    free = ray.available_resources()
    return Node(free.get("CPU", 0), free.get("GPU", 0), free.get("memory", 0) / 2**30)


def _asked(workers: Workers | TrainWorkers) -> str:
    each = demand_of(workers)
    parts = [f"{each.cpus:g} CPU cores"]
    parts += [f"{each.gpus:g} GPUs"] if each.gpus else []
    parts += [f"{each.memory_gb:g} GiB"] if each.memory_gb else []
    parts += [f"an accelerator {each.accelerator}"] if each.accelerator else []
    return f"workers with {', '.join(parts)} each"


def check_all(fields: Iterable[tuple[str, Workers | TrainWorkers]]) -> None:
    """Run `check_capacity` for the workers in these config fields, so that a whole run does not stop half-way.

    Where no worker node is up yet there is nothing to compare with: each stage logs what it waits for when it starts.
    Raises SessionError.
    """
    if not session.is_own() and no_workers(cluster_nodes()):
        log.info("the head node offers no CPU cores and no worker node is up yet: stages wait until some have started")
        return
    for field, workers in fields:
        check_capacity(field, workers)


def cluster_nodes() -> list[Node]:
    """The machines that are alive now."""
    import ray

    nodes = []
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            kinds = frozenset(name.split(":", 1)[1] for name in has if name.startswith("accelerator_type:"))
            nodes.append(Node(has.get("CPU", 0), has.get("GPU", 0), has.get("memory", 0) / 2**30, kinds))
    return nodes
