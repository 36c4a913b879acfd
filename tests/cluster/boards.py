"""`cluster.signs.Signs` and `cluster.watchdog.Watchdog` without Ray and without ending the test's own process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


class Board:
    """Signs in lists."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.signs_left = 0

    def all_alive(self) -> dict[str, str]:
        """Of one worker, which signs so many times more."""
        self.signs_left = max(0, self.signs_left - 1)
        return {"alive/elsewhere-1": f"{self.signs_left} label, part 3"}

    def forget(self) -> None:
        self.words.clear()

    def all_words(self) -> list[str]:
        return list(self.words)


class Death(BaseException):
    """Stands for a process that is gone."""


class Dog:
    """Watches over nothing."""

    def __init__(self, board: Board) -> None:
        self.board = board

    @contextmanager
    def over(self, what: str, minutes: float, field: str) -> Iterator[None]:
        yield

    def end(self, words: str, error: BaseException | None = None) -> NoReturn:
        self.board.words.append(words)
        raise Death
