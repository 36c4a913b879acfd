"""Pauses between tries."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from fgvr.mllm.openai_server.retry import GaveUp, NothingButWaiting, Retries, SharedPause, TryAgain, retry_after


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Fri, 02 Jan 2026 00:00:30 GMT"}, 30.0),
        ({"retry-after": "Fri, 02 Jan 2020 00:00:30 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "12s"}, 12.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "²"}, None),
        # HTTP's dates are UTC, also where they do not say so (RFC 9110, 5.6.7).
        ({"retry-after": "Fri, 02 Jan 2026 00:00:30"}, 30.0),
        ({"retry-after": "Fri Jan  2 00:00:30 2026"}, 30.0),
        ({"retry-after": "Fri, 99 Foo 20266 00:00:30 GMT"}, None),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "nan", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "-100"}, 0.0),
    ],
)
def test_what_a_server_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, datetime(2026, 1, 2, tzinfo=UTC)) == seconds


def test_pauses_double_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("fgvr.mllm.openai_server.retry.time.sleep", slept.append)
    monkeypatch.setattr("fgvr.mllm.openai_server.retry.random.uniform", lambda _, longest: longest)

    def fails() -> None:
        raise TryAgain("busy")

    with pytest.raises(GaveUp, match=r"busy \(after 5 tries\)"):
        Retries(4, first_pause=1, longest_pause=3).run(fails, SharedPause())
    assert slept == [1, 2, 3, 3]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes only where it is waited for, on one thread; and pauses without chance."""
    now = [1000.0]

    def passes(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("fgvr.mllm.openai_server.retry.time.monotonic", lambda: now[0])
    monkeypatch.setattr("fgvr.mllm.openai_server.retry.time.sleep", passes)
    monkeypatch.setattr("fgvr.mllm.openai_server.retry.threading.Condition.wait", lambda _, seconds: passes(seconds))
    monkeypatch.setattr("fgvr.mllm.openai_server.retry.random.uniform", lambda least, _: least)
    return now


def asked_at(clock: list[float], wish: float | None, answers: int, **settings: float) -> list[float]:
    """Seconds at which a server that asks to slow down `answers` times is asked."""
    moments: list[float] = []

    def work() -> None:
        moments.append(clock[0] - 1000)
        if len(moments) <= answers:
            raise TryAgain("429", wish, limited=True)

    Retries(1, first_pause=1, **settings).run(work, SharedPause())
    return moments


def test_pauses_are_the_longer_of_the_wish_and_a_growing_one(clock: list[float]) -> None:
    assert asked_at(clock, 3, 5) == [0, 3, 6, 10, 18, 34]  # 1, 2, 4, 8, 16 where the wish is no longer
    clock[0] = 1000
    assert asked_at(clock, None, 4) == [0, 1, 3, 7, 15]
    clock[0] = 1000
    assert asked_at(clock, 0.0, 3, longest_pause=2) == [0, 1, 3, 5]
    clock[0] = 1000
    assert asked_at(clock, 1e9, 1) == [0, 300]  # followed for five minutes


def test_who_is_never_answered_gives_up_by_the_clock(clock: list[float]) -> None:
    with pytest.raises(NothingButWaiting, match=r"429 \(after 9 tries\)"):
        asked_at(clock, 30, 10**6, patience=299)
    assert clock[0] == 1302  # after 0, 30, 60, 90, 120, 150, then 32 and 60 and 60 later


def test_waiting_is_a_sign_of_life(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[float] = []
    monkeypatch.setattr("fgvr.mllm.openai_server.retry.liveness.beat", lambda: beats.append(clock[0]))
    asked_at(clock, 300, 2)
    assert max(later - earlier for earlier, later in itertools.pairwise(beats)) <= 5
    assert clock[0] == 1600


def test_one_request_goes_ahead_after_a_pause_and_the_others_follow_when_it_is_answered() -> None:
    pause, moments, lock = SharedPause(), [], threading.Lock()
    start = time.monotonic()

    def work() -> None:
        with lock:
            moments.append(time.monotonic() - start)
            number = len(moments)
        time.sleep(0.03)
        if number <= 10:  # the burst, and the first two of those that go ahead
            raise TryAgain("429", 0.1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: Retries(1, first_pause=0.05).run(work, pause), range(8)))
    assert len(moments) == 8 + 2 + 8
    assert moments[8] >= 0.1
    assert moments[9] - moments[8] >= 0.1  # alone: the other seven would be told the same
    assert moments[10] - moments[9] >= 0.1
    assert min(later - moments[10] for later in moments[11:]) >= 0.03  # not before that one is answered


def test_a_reply_that_is_paid_for_is_not_asked_for_seven_times() -> None:
    tries: list[int] = []

    def work() -> None:
        tries.append(1)
        raise TryAgain("no text", paid=True)

    with pytest.raises(GaveUp, match=r"no text \(after 3 tries\)"):
        Retries(6, first_pause=0).run(work, SharedPause())
    assert len(tries) == 3
