import random
from heapq import heappop, heappush

import pytest

from fgvr.mllm.simulated import EngineClock


class World:
    """A clock that only sleeping moves on, each time a little too far."""

    def __init__(self, oversleep: float = 0.0) -> None:
        self.time, self.oversleep = 100.0, oversleep

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds + self.oversleep


def clock(concurrency: int, world: World) -> EngineClock:
    return EngineClock(concurrency, now=world.now, sleep=world.sleep)


def test_two_places_three_requests() -> None:
    world = World()
    engine = clock(2, world)
    engine.begin(3)  # 100 to 103
    engine.begin(1)  # 100 to 101
    assert world.time == 100
    engine.begin(4)  # waits for 101, and ends at 105
    assert world.time == 101
    engine.drain()
    assert (world.time, engine.busy) == (105, 8)
    engine.begin(0)
    engine.drain()
    assert world.time == 105


@pytest.mark.parametrize("concurrency", [1, 3, 16])
def test_the_time_is_that_of_a_queue_with_so_many_servers(concurrency: int) -> None:
    """Against the textbook: each request goes to the server that is free first."""
    lengths = [random.Random(concurrency).uniform(0.1, 2) for _ in range(200)]
    servers = [0.0] * concurrency
    for length in lengths:
        heappush(servers, heappop(servers) + length)
    world = World()
    engine = clock(concurrency, world)
    for length in lengths:
        engine.begin(length)
    engine.drain()
    assert world.time - 100 == pytest.approx(max(servers))


def test_sleeping_too_long_does_not_add_up() -> None:
    world = World(oversleep=0.01)
    engine = clock(1, world)
    for _ in range(100):
        engine.begin(1)
    engine.drain()
    assert world.time - 100 == pytest.approx(100.01)
