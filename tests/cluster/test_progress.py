import io

import pytest

from cluster import progress
from cluster.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test sets."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_rate_and_time_left_count_only_this_session(clock: list[float]) -> None:
    shown = Progress("label", total=1000, done=400, stream=io.StringIO())
    clock[0] += 10
    shown.update(100, failed=2)  # 10 rows a second, 500 left
    assert shown.line() == "label: 500 of 1,000 rows, 10.0 rows/s, 50 s left, 2 failed"


def test_a_log_file_gets_a_line_a_minute(clock: list[float]) -> None:
    stream = io.StringIO()
    shown = Progress("embed", total=10_000, stream=stream)
    for _ in range(130):  # a part a second
        clock[0] += 1
        shown.update(10)
    shown.close()
    assert stream.getvalue().splitlines() == [
        "embed: 600 of 10,000 rows, 10.0 rows/s, 15 min 40 s left",
        "embed: 1,200 of 10,000 rows, 10.0 rows/s, 14 min 40 s left",
    ]


def test_a_terminal_gets_one_line_that_is_rewritten_and_cleared(clock: list[float]) -> None:
    stream = Terminal()
    shown = Progress("embed", total=20, stream=stream)
    for _ in range(2):
        clock[0] += 1
        shown.update(10)
    shown.close()
    assert "\n" not in stream.getvalue()
    assert "embed: 20 of 20 rows" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (425, "7 min 5 s"), (59.6, "1 min 0 s"), (11_520, "3 h 12 min")]
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
