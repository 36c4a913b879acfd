"""Engines outlive stages: the pool of a loaded model is lent from stage to stage as long as a later one asks it.

A model takes seconds to minutes to load, and several stages of a run ask the same one: labels, aspects, class scores,
evaluation. What is lent has an identity: the engine, and what each of its processes reserves. A pool that no stage uses
is given back when no later stage asks it, when its place is wanted for something else, and when the run ends, however
that is. Outside of `lending` nothing is kept.
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
from cluster.part_actor import PartActor
from cluster.pool import ActorProcess, Pool
from cluster.signs import Signs
from fgvr.config.base import TrainWorkers, Workers
from fgvr.mllm.vllm_engine.memory import available_bytes
from fgvr.part_worker import Engine

log = logging.getLogger(__name__)

ENOUGH = 0.75
"""Of the workers that a stage could have in the place of idle engines: with fewer than this it gets their place."""
SETTLE_SECONDS = 3.0
"""The longest that Ray takes to say that what a stage before has left is free."""


def identity(engine: Engine, workers: Workers) -> str:
    """What two stages must have in common for one pool to serve both; 16 hex digits."""
    facts = json.dumps([engine.identity, reserved(workers)], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Idle:
    """A pool that no stage uses now."""

    pool: Pool
    workers: Workers

    @property
    def memory_is_known(self) -> bool:
        """Whether Ray knows of the memory that its engines take: on GPUs and by reservation it does."""
        return bool(self.workers.num_gpus) or self.workers.memory_gb is not None


class Lender:
    """The pools of a run that are idle, each under its identity."""

    def __init__(self) -> None:
        self._idle: dict[str, _Idle] = {}

    @contextmanager
    def borrowed(self, engine: Engine | None, workers: Workers, most: int, *, keep: bool = True) -> Iterator[Pool]:
        """A pool for one stage.

        Args:
            engine: what its processes load; None: what they load is the stage's own, and is not lent.
            workers: what each of them reserves.
            most: processes that the stage can use.
            keep: whether a later stage asks the engine, so that it stays.
        """
        key = identity(engine, workers) if engine is not None and engine.lent else None
        idle = None if key is None else self._idle.pop(key, None)
        pool = make_pool(workers) if idle is None else idle.pool
        if len(pool):
            log.info("%d worker(s) with the model loaded are taken over from an earlier stage", len(pool))
        try:
            self.make_room(workers, most - len(pool), engine=key is not None)
            pool.keeps_idle, pool.starved = key is not None and keep, self.give_back
            yield pool
        except BaseException:
            pool.close()  # parts may be under way
            raise
        if key is not None and pool.keeps_idle:
            self._idle[key] = _Idle(pool, workers)
        else:
            pool.close()

    def make_room(self, workers: Workers | TrainWorkers, most: int, *, engine: bool = False) -> None:
        """Give the idle pools back where what comes now would be short of their place.

        Args:
            workers: what each worker of it reserves.
            most: workers that it can use beside those that it has; a training needs them all.
            engine: whether they load a model that answers, which takes memory as the idle ones do.
        """
        if not self._idle or most <= 0:
            return
        trains = isinstance(workers, TrainWorkers)
        # A training takes hours in which a cluster could be smaller.
        if (trains and not session.is_own()) or self._crowded(engine=engine) or self._short(workers, most):
            self.give_back()

    def give_back(self) -> None:
        """End all idle pools."""
        for idle in self._idle.values():
            log.info("%d idle worker(s) with a model loaded are given back", len(idle.pool))
            idle.pool.close()
        self._idle.clear()

    def _crowded(self, *, engine: bool) -> bool:
        """Whether memory may be missing that Ray does not count: that of engines on CPUs which reserve none."""
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


_lender: Lender | None = None  # of the run of this process


@contextmanager
def lending() -> Iterator[Lender]:
    """Stages in the block lend each other their engines; at its end all are given back, however it ends."""
    global _lender  # a process has one run, as it has one Ray session
    outer, _lender = _lender, Lender()
    try:
        yield _lender
    finally:
        lender, _lender = _lender, outer
        lender.give_back()


@contextmanager
def borrowed(engine: Engine | None, workers: Workers, most: int, *, keep: bool = True) -> Iterator[Pool]:
    """See `Lender.borrowed`; outside of `lending` the pool ends with the block."""
    lender = Lender() if _lender is None else _lender
    with lender.borrowed(engine, workers, most, keep=keep) as pool:
        yield pool
    if _lender is None:
        lender.give_back()


def make_room(workers: Workers | TrainWorkers) -> None:
    """See `Lender.make_room`; called before anything but a stage's pool takes its place in the cluster."""
    if _lender is not None:
        _lender.make_room(workers, workers.num_workers if isinstance(workers, TrainWorkers) else 1)


def give_back() -> None:
    """End all idle pools; called before something that takes whatever the cluster has."""
    if _lender is not None:
        _lender.give_back()


def make_pool(workers: Workers) -> Pool:
    """A pool of Ray actors that reserve what `workers` say."""
    import ray

    # SPREAD: engines share a node only where there is no other, as their memory and their reading of images would.
    actor = ray.remote(PartActor).options(**reserved(workers), scheduling_strategy="SPREAD")
    signs, limits, threads = Signs(), session.limits(), max(1, int(workers.num_cpus))
    return Pool(lambda: ActorProcess(actor.remote(signs, limits, threads)), signs, limits.place_minutes)
