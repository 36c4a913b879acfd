"""The way to a server that fails in every way, with a clock of the test's own."""

import threading
import time

import pytest
import requests
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_ALREADY_EXISTS

from cluster.tracking_link import FIRST_PAUSE, LONGEST_PAUSE, Away, Link, Refused


class Clock:
    """Stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def failing(error: BaseException):
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError("refused"),
        requests.ReadTimeout("slow"),
        requests.exceptions.JSONDecodeError("<html>", "", 0),  # a proxy's page
        MlflowException("API request failed with exception HTTPConnectionPool"),
        RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "restarting"}),
        RestException({"error_code": "PERMISSION_DENIED", "message": "no token"}),
        OSError(30, "Read-only file system"),
        PermissionError(13, "Permission denied"),
        RuntimeError("of some library"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_after_a_failure_nothing_is_asked_until_the_pause_is_over(error: Exception) -> None:
    clock = Clock()
    link = Link(clock)
    calls: list[int] = []
    pause = FIRST_PAUSE
    for _ in range(10):
        with pytest.raises(Away):
            link.call(failing(error))
        with pytest.raises(Away, match="did not answer before"):
            link.call(lambda: calls.append(1))
        clock.now += pause - 0.01
        assert not link.ready()
        clock.now += 0.02
        assert link.ready()
        pause = min(2 * pause, LONGEST_PAUSE)
    assert calls == []
    assert link.call(lambda: 7) == 7
    with pytest.raises(Away):
        link.call(failing(error))
    clock.now += FIRST_PAUSE  # it answered in between, so the pauses begin anew
    assert link.ready()


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("bad name", INVALID_PARAMETER_VALUE),
        MlflowException("there", RESOURCE_ALREADY_EXISTS),
        RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}),
        FileNotFoundError("report.html"),
        ValueError("no number"),
        ImportError("no psycopg2"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_refused_does_not_close_the_way(error: Exception) -> None:
    link = Link(Clock())
    with pytest.raises(Refused) as caught:
        link.call(failing(error))
    assert link.ready()
    assert caught.value.missing == ("no such run" in str(error))
    assert caught.value.exists == (str(error) == "there")


def test_a_server_that_never_answers_is_left_alone_until_its_call_has_ended() -> None:
    clock = Clock()
    link, release = Link(clock), threading.Event()
    begun = time.monotonic()
    with pytest.raises(Away, match="no answer after"):
        link.call(release.wait, seconds=0.05)
    assert time.monotonic() - begun < 5
    clock.now += LONGEST_PAUSE
    assert not link.ready()  # its call still hangs: not one more thread for each try
    release.set()
    for _ in range(500):
        if link.ready():
            break
        time.sleep(0.01)
    assert link.ready()


def test_the_last_chance_ends_the_pause() -> None:
    link = Link(Clock())
    with pytest.raises(Away):
        link.call(failing(OSError("gone")))
    link.try_soon()
    assert link.call(lambda: "there") == "there"


def test_words_of_a_failure_hold_no_password() -> None:
    with pytest.raises(Away) as caught:
        Link(Clock()).call(failing(OSError("postgresql://me:hunter2@db/mlflow is down")))
    assert "hunter2" not in str(caught.value)
    assert "db/mlflow is down" in str(caught.value)
