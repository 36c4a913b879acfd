"""Signs of workers go when the wait for them ends, however it ends; a dict stands for the store of Ray's head."""

import pytest
from ray.experimental import internal_kv

from cluster import heartbeat
from cluster.heartbeat import Heartbeats
from fgvr import spending

Store = dict[str, bytes]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    there: Store = {"heartbeats/of-another-job/1/words/2": b"stays"}

    def put(key: str, value: bytes, **_: object) -> None:
        there[key] = value

    def delete(prefix: str, **_: object) -> None:
        for key in [key for key in there if key.startswith(prefix)]:
            del there[key]

    monkeypatch.setattr(internal_kv, "_internal_kv_put", put)
    monkeypatch.setattr(internal_kv, "_internal_kv_del", delete)
    monkeypatch.setattr(heartbeat, "_of_this_job", lambda: "heartbeats/01000000/")
    return there


def failing_wait(waited: Heartbeats) -> None:
    with waited.kept():
        waited.alive("label, part 3")
        waited.last_words("no such model")
        raise ValueError("the stage stops")


def test_a_wait_that_fails_leaves_none(store: Store) -> None:
    another, mine = Heartbeats(), Heartbeats()
    another.last_words("a GPU is lost")
    with pytest.raises(ValueError, match="the stage stops"):
        failing_wait(mine)
    stays, theirs = store
    assert (stays, theirs.startswith(f"{another.place}/words/")) == ("heartbeats/of-another-job/1/words/2", True)


def test_a_worker_that_signs_when_the_wait_is_over_leaves_none_behind_the_session(store: Store) -> None:
    spending.begin()  # what other tests have asked in this process is not told here
    mine = Heartbeats()
    with mine.kept():
        pass
    mine.alive("is being ended")
    assert len(store) == 2
    heartbeat.forget_all()
    assert list(store) == ["heartbeats/of-another-job/1/words/2"]


def test_a_head_that_is_gone_does_not_hide_why_a_wait_ended(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to connect to GCS")

    monkeypatch.setattr(internal_kv, "_internal_kv_del", gone)
    with pytest.raises(ValueError, match="the stage stops"):
        failing_wait(Heartbeats())
