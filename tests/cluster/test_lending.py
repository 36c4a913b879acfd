"""When the pool of an engine is lent to the next stage, and when it is released instead."""

from collections.abc import Iterator
from contextlib import suppress

import pytest

from cluster import lending
from cluster.capacity import Node
from cluster.lending import Lender, identity
from fgvr.config.base import TrainWorkers, Workers
from fgvr.part_worker import Engine

BIRD, PLANT, SERVER = Engine("bird", object), Engine("plant", object), Engine("server", object, lent=False)
CPU, GPU = Workers(num_cpus=2, memory_gb=4), Workers(num_cpus=2, num_gpus=1)
GIB = 2**30


class Pool:
    """Of no process before it is used."""

    def __init__(self) -> None:
        self.size, self.closed, self.keeps_idle = 0, False, False

    def __len__(self) -> int:
        return 0 if self.closed else self.size

    def close(self) -> None:
        self.closed = True


class World:
    """What is free in a cluster while the idle engines hold their part of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[Pool] = []
        self.free, self.own, self.memory = Node(0, 0, 0), True, 10**6 * GIB
        monkeypatch.setattr(lending, "make_pool", self._make)
        monkeypatch.setattr(lending, "free_in_cluster", lambda: self.free)
        monkeypatch.setattr(lending, "available_bytes", lambda: self.memory)
        monkeypatch.setattr("cluster.session.is_own", lambda: self.own)
        monkeypatch.setattr(lending, "SETTLE_SECONDS", 0.0)

    def _make(self, _: Workers) -> Pool:
        self.made.append(Pool())
        return self.made[-1]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def lender(world: World) -> Iterator[Lender]:
    with lending.lending() as found:
        yield found


def stage(engine: Engine | None, workers: Workers = CPU, most: int = 1, *, keep: bool = True) -> Pool:
    with lending.borrowed(engine, workers, most, keep=keep) as pool:
        assert isinstance(pool, Pool)
        pool.size = most
    return pool


def test_an_engine_is_its_model_and_what_its_processes_reserve() -> None:
    same = Workers(num_cpus=2, memory_gb=4, min_workers=3, max_workers=9, rows_per_part=7)
    assert identity(BIRD, CPU) == identity(Engine("bird", dict), same)
    others = [identity(PLANT, CPU), identity(BIRD, GPU), identity(BIRD, Workers(num_cpus=1, memory_gb=4))]
    assert len({identity(BIRD, CPU), *others}) == 4


def test_the_next_stage_that_asks_the_same_engine_gets_its_pool(world: World, lender: Lender) -> None:
    world.free = Node(2, 0, 4)
    first = stage(BIRD)
    assert stage(BIRD, most=4) is first
    other = stage(PLANT)
    assert (other is first, first.closed) == (False, False)
    assert stage(BIRD) is first
    lender.release_idle()
    assert (first.closed, other.closed) == (True, True)
    assert stage(BIRD) is not first


def test_what_is_not_lent_ends_with_its_stage(world: World, lender: Lender) -> None:
    assert stage(SERVER).closed
    assert stage(None).closed
    world.free = Node(8, 0, 64)
    first = stage(BIRD)
    assert stage(PLANT, keep=False).closed
    assert not first.closed
    assert stage(BIRD, keep=False) is first
    assert first.closed


def test_what_takes_all_that_there_is_gets_it(world: World) -> None:
    lending.release_idle()  # outside of a run nothing is lent
    with lending.lending():
        pool = stage(BIRD)
        lending.release_idle()
        assert pool.closed


def test_a_stage_that_stops_ends_its_pool(world: World, lender: Lender) -> None:
    with suppress(KeyboardInterrupt), lending.borrowed(BIRD, CPU, 1) as pool:
        raise KeyboardInterrupt
    assert len(pool) == 0
    assert stage(BIRD) is not pool


def test_the_end_of_a_run_ends_all_and_outside_of_one_nothing_is_kept(world: World) -> None:
    with suppress(KeyboardInterrupt), lending.lending():
        kept = stage(BIRD)
        assert not kept.closed
        raise KeyboardInterrupt
    assert kept.closed
    assert stage(BIRD).closed


# Two idle engines of two cores and a GPU each hold a part of what the next stage could have.
@pytest.mark.parametrize(
    ("free", "most", "stays"),
    [
        (Node(8, 0, 64), 1, False),  # there is no GPU for it but theirs
        (Node(8, 1, 64), 1, True),
        (Node(8, 1, 64), 3, False),  # one now, three in their place
        (Node(12, 6, 64), 8, True),  # six of eight are enough
        (Node(12, 5, 64), 8, False),  # five are not
        (Node(12, 2, 64), 100, False),
        (Node(0, 0, 64), 0, True),  # it needs no more than it has
    ],
)
def test_idle_engines_go_where_a_stage_would_have_too_few_workers(
    world: World, lender: Lender, free: Node, most: int, stays: bool
) -> None:
    pool = stage(BIRD, GPU, most=2)
    world.free = free
    lender.make_room(Workers(num_cpus=2, num_gpus=1), most)
    assert pool.closed is not stays


@pytest.mark.parametrize(("cores", "workers", "own", "stays"), [
    (4, 2, True, True),
    (4, 3, True, False),  # a training needs all of its workers at once
    (40, 2, False, False),  # hours in which a cluster could be smaller
])  # fmt: skip
def test_a_training_gets_all_it_needs(
    world: World, lender: Lender, cores: int, workers: int, own: bool, stays: bool
) -> None:
    pool = stage(BIRD, GPU)
    world.free, world.own = Node(cores, 8, 64), own
    lending.make_room(TrainWorkers(num_workers=workers, num_cpus=2))
    assert pool.closed is not stays


def test_engines_whose_memory_ray_does_not_know_are_kept_where_there_is_enough(world: World, lender: Lender) -> None:
    unknown = Workers(num_cpus=1)
    world.free = Node(8, 0, 64)
    first = stage(BIRD, unknown)
    stage(None)
    assert not first.closed
    second = stage(PLANT, unknown)  # another engine beside it might not fit
    assert (first.closed, second.closed) == (True, False)
    world.memory = GIB // 1000
    stage(None)
    assert second.closed
    world.memory, world.own = 10**6 * GIB, False
    third = stage(BIRD, unknown)
    stage(None)
    assert third.closed
    fourth = stage(BIRD, CPU)  # it reserves its memory
    stage(None)
    assert not fourth.closed
