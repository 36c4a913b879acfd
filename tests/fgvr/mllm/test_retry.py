"""Pauses between tries."""

from datetime import UTC, datetime

import pytest

from fgvr.mllm.retry import GaveUp, Retries, SharedPause, TryAgain, retry_after


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
    ],
)
def test_what_a_server_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, datetime(2026, 1, 2, tzinfo=UTC)) == seconds


def test_pauses_double_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("fgvr.mllm.retry.time.sleep", slept.append)
    monkeypatch.setattr("fgvr.mllm.retry.random.uniform", lambda _, longest: longest)

    def fails() -> None:
        raise TryAgain("busy")

    with pytest.raises(GaveUp, match=r"busy \(after 5 tries\)"):
        Retries(4, first_pause=1, longest_pause=3).run(fails, SharedPause())
    assert slept == [1, 2, 3, 3]
