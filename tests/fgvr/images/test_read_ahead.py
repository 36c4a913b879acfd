import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from fgvr.prefetch import Ahead, read_ahead


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_results_come_in_order(threads):
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number * number

    assert list(read_ahead(slow_first, range(20), threads=threads)) == [n * n for n in range(20)]


def test_threads_are_never_more_than_ahead_in_front():
    begun = []
    results = read_ahead(begun.append, range(100), threads=2, ahead=5)
    for _ in range(3):
        next(results)
    time.sleep(0.05)
    assert len(begun) <= 3 + 5
    results.close()


def test_an_error_comes_where_its_result_would_have():
    def fails_at_two(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    results = read_ahead(fails_at_two, range(5), threads=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)


def test_a_consumer_that_stops_leaves_no_thread_behind():
    before = threading.active_count()
    results = read_ahead(lambda n: n, range(1000), threads=3)
    next(results)
    results.close()
    assert threading.active_count() == before


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


def soon(known: Callable[[], bool]) -> bool:
    """Whether it comes true within ten seconds."""
    end = time.monotonic() + 10
    while not known() and time.monotonic() < end:
        time.sleep(0.001)
    return known()


def test_a_consumer_with_other_work_is_told_when_the_next_is_there(pool):
    asked, begun = threading.Event(), threading.Event()

    def wait_for_one(number: int) -> int:
        if number == 1:
            begun.set()
            asked.wait(10)
        return number * number

    with Ahead(wait_for_one, range(4), pool, ahead=3) as results:
        assert next(results) == 0
        assert begun.wait(10)
        assert not results.ready()
        asked.set()
        assert soon(results.ready)
        assert list(results) == [1, 4, 9]
        assert results.ready()  # the end is there, too
        assert next(results, "end") == "end"


def test_items_that_take_their_time_are_waited_for_by_another_thread(pool):
    given = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        given.wait(10)
        yield 2

    with Ahead(lambda n: n, items(), pool, ahead=4) as results:
        assert next(results) == 1
        assert not results.ready()
        given.set()
        assert next(results) == 2


def test_items_are_taken_only_as_results_are_given_out(pool):
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    with Ahead(lambda n: n, items(), pool, ahead=5) as results:
        assert soon(lambda: len(taken) == 5)
        time.sleep(0.02)
        assert len(taken) == 5
        assert [next(results), next(results)] == [0, 1]
        assert soon(lambda: len(taken) == 7)


def test_errors_of_the_work_and_of_the_items_come_in_their_places(pool):
    def items() -> Iterator[int]:
        yield from (0, 1, 2)
        raise OSError("no more")

    with Ahead(lambda n: 6 // (n - 1), items(), pool, ahead=2) as results:
        assert next(results) == -6
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert next(results) == 6
        with pytest.raises(OSError, match="no more"):
            next(results)
        assert list(results) == []


def test_a_block_that_ends_early_ends_its_thread(pool):
    before, closed = threading.active_count(), threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    def stop() -> None:
        with Ahead(lambda n: n, items(), pool, ahead=2) as results:
            next(results)
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        stop()
    assert closed.wait(10)
    assert threading.active_count() <= before + 2  # the pool's own
