"""Engines outlive stages: the pool with a loaded model passes from stage to stage while a later one asks the same
model.

A model takes seconds to minutes to load, and several stages of a run ask the same one: labels, aspects, class scores,
evaluation. A pool is identified by its engine and the resources of each process. An idle pool is released when no later
stage asks it, when its resources are needed for something else, and when the run ends in any way. Outside of a
`lending` block no pool is kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cluster import session
from cluster.capacity import demand_of, free_in_cluster, places_on, reserved
from cluster.heartbeat import Heartbeats
from cluster.part_actor import PartActor
from cluster.pool import ActorProcess, Pool
from fgvr.config.base import TrainWorkers, Workers
from fgvr.mllm.vllm_engine.memory import available_bytes
from fgvr.part_worker import Engine

log = logging.getLogger(__name__)

ENOUGH = 0.75
"""A stage that can place less than this share of its possible workers gets the resources of idle engines."""
SETTLE_SECONDS = 3.0
"""Longest time that Ray needs to report the resources of an earlier stage as free."""


def identity(engine: Engine, workers: Workers) -> str:
    """Hash of what two stages must have in common to use one pool; 16 hex digits."""
    facts = json.dumps([engine.identity, reserved(workers)], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Idle:
    """A pool that no stage is using."""

    pool: Pool
    workers: Workers

    @property
    def memory_is_known(self) -> bool:
        """Whether Ray accounts for the memory of its engines, as it does on GPUs and with a reservation."""
        return bool(self.workers.num_gpus) or self.workers.memory_gb is not None


class Lender:
    """The idle pools of a run, by identity."""

    def __init__(self) -> None:
        self._idle: dict[str, _Idle] = {}

    @contextmanager
    def borrowed(self, engine: Engine | None, workers: Workers, most: int, *, keep: bool = True) -> Iterator[Pool]:
        """Within the block, a pool for one stage.

        Args:
            engine: the model that its processes load; None: the stage loads something of its own, which is not lent.
            workers: the resources of each process.
            most: largest number of processes that the stage can use.
            keep: whether a later stage asks the engine, so that the pool is kept.
        """
        key = identity(engine, workers) if engine is not None and engine.lent else None
        idle = None if key is None else self._idle.pop(key, None)
        pool = make_pool(workers) if idle is None else idle.pool
        if len(pool):
            log.info("%d worker(s) with the model loaded are taken over from an earlier stage", len(pool))
        try:
            self.make_room(workers, most - len(pool), engine=key is not None)
            pool.keeps_idle, pool.starved = key is not None and keep, self.release_idle
            yield pool
        except BaseException:
            pool.close()  # parts may still be running
            raise
        if key is not None and pool.keeps_idle:
            self._idle[key] = _Idle(pool, workers)
        else:
            pool.close()

    def make_room(self, workers: Workers | TrainWorkers, most: int, *, engine: bool = False) -> None:
        """Release the idle pools if the next work would otherwise lack their resources.

        Args:
            workers: the resources of each worker of the next work.
            most: number of further workers that it can use; a training run needs all of them.
            engine: whether they load an engine, which needs memory like the idle ones.
        """
        if not self._idle or most <= 0:
            return
        trains = isinstance(workers, TrainWorkers)
        # A training run takes hours, in which the cluster could shrink.
        if (trains and not session.is_own()) or self._crowded(engine=engine) or self._short(workers, most):
            self.release_idle()

    def release_idle(self) -> None:
        """End all idle pools."""
        for idle in self._idle.values():
            log.info("%d idle worker(s) with a model loaded are released", len(idle.pool))
            idle.pool.close()
        self._idle.clear()

    def _crowded(self, *, engine: bool) -> bool:
        """Whether memory outside of Ray's accounting may run short: that of engines on CPUs without a reservation."""
        if all(idle.memory_is_known for idle in self._idle.values()):
            return False
        free, whole = available_bytes(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return engine or not session.is_own() or (free is not None and free < whole / 2)

    def _short(self, workers: Workers | TrainWorkers, most: int) -> bool:
        each, until = demand_of(workers), time.monotonic() + SETTLE_SECONDS
        held = [(demand_of(idle.workers), len(idle.pool)) for idle in self._idle.values()]
        while True:
            free = free_in_cluster()
            whole = free
            for of, count in held:
                whole = whole.with_more(of, count)
            enough = min(most, places_on(each, whole)) * (1 if isinstance(workers, TrainWorkers) else ENOUGH)
            if places_on(each, free) >= enough:
                return False
            if time.monotonic() > until:
                return True
            time.sleep(0.2)


_lender: Lender | None = None  # that of this process's run


@contextmanager
def lending() -> Iterator[Lender]:
    """Within the block, stages share their engines; all are released when it ends, however it ends."""
    global _lender  # a process has one run, just as it has one Ray session
    outer, _lender = _lender, Lender()
    try:
        yield _lender
    finally:
        lender, _lender = _lender, outer
        lender.release_idle()


@contextmanager
def borrowed(engine: Engine | None, workers: Workers, most: int, *, keep: bool = True) -> Iterator[Pool]:
    """See `Lender.borrowed`; outside of a `lending` block the pool is closed at the end of this block."""
    lender = Lender() if _lender is None else _lender
    with lender.borrowed(engine, workers, most, keep=keep) as pool:
        yield pool
    if _lender is None:
        lender.release_idle()


def make_room(workers: Workers | TrainWorkers) -> None:
    """See `Lender.make_room`; called before anything other than a stage's pool takes resources of the cluster."""
    if _lender is not None:
        _lender.make_room(workers, workers.num_workers if isinstance(workers, TrainWorkers) else 1)


def release_idle() -> None:
    """End all idle pools; called before something that may use the whole cluster."""
    if _lender is not None:
        _lender.release_idle()


def make_pool(workers: Workers) -> Pool:
    """A pool of Ray actors with the resources that `workers` sets."""
    import ray

    # SPREAD: engines share a node only where there is no other, since they compete for memory and for reading images.
    actor = ray.remote(PartActor).options(**reserved(workers), scheduling_strategy="SPREAD")
    heartbeats, limits, threads = Heartbeats(), session.limits(), max(1, int(workers.num_cpus))
    return Pool(lambda: ActorProcess(actor.remote(heartbeats, limits, threads)), heartbeats, limits.place_minutes)
