import threading
import time

import pytest

from fgvr.read_ahead import read_ahead


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
