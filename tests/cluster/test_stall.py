import time
from collections.abc import Iterator

import pytest

from cluster.stall import Stalled, unless_stalled


class Board:
    """Signs without Ray: a worker that signs so many times."""

    def __init__(self, signs: int = 0) -> None:
        self.left = signs

    def all_alive(self) -> dict[str, str]:
        self.left = max(0, self.left - 1)
        return {"alive/a-1": str(self.left)}

    def all_words(self) -> list[str]:
        return ["the card fell off the bus"]


def items_of(work, board: Board, minutes: float = 0.2 / 60) -> list[int]:
    return list(unless_stalled(work, board, minutes=minutes, waits_for=lambda: "label: waiting for 3 parts"))


def test_items_come_in_order_and_errors_where_they_arise() -> None:
    def work() -> Iterator[int]:
        yield from range(5)

    assert items_of(work, Board()) == [0, 1, 2, 3, 4]

    def fails() -> Iterator[int]:
        yield 1
        raise ValueError("out of luck")

    items = unless_stalled(fails, Board(), minutes=1, waits_for=str)
    assert next(items) == 1
    with pytest.raises(ValueError, match="out of luck"):
        next(items)


def test_silence_ends_the_wait_and_says_what_for() -> None:
    def hangs() -> Iterator[int]:
        yield 1
        time.sleep(30)

    start = time.monotonic()
    with pytest.raises(
        Stalled, match=r"label: waiting for 3 parts: no heartbeat of any worker .*place_minutes = 0\.003"
    ) as e:
        items_of(hangs, Board())
    assert "Last message of a worker: the card fell off the bus" in str(e.value)
    assert 0.2 <= time.monotonic() - start < 5


def test_signs_of_life_prolong_the_wait_as_long_as_they_come() -> None:
    def slow() -> Iterator[int]:
        time.sleep(1.0)  # five times the limit
        yield 7

    assert items_of(slow, Board(signs=1000)) == [7]
    with pytest.raises(Stalled):
        items_of(slow, Board(signs=3))


def test_who_produces_does_not_run_ahead() -> None:
    made = []

    def work() -> Iterator[int]:
        for n in range(100):
            made.append(n)
            yield n

    items = unless_stalled(work, Board(), minutes=1, waits_for=str)
    assert next(items) == 0
    time.sleep(0.1)
    assert len(made) <= 3  # one given, one waiting, one made
    items.close()
    time.sleep(1.2)
    assert len(made) <= 3
