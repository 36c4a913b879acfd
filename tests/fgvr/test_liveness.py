import threading

import pytest

from fgvr import liveness


@pytest.fixture(autouse=True)
def _nobody_watches():
    yield
    liveness.allow(float("inf"))


def test_a_wait_stays_below_the_silence_that_is_allowed() -> None:
    assert liveness.longest_wait(300) == 300  # nobody watches
    liveness.allow(1800)
    assert liveness.longest_wait(300) == 300
    assert liveness.longest_wait(7200) == 900
    liveness.allow(60)
    assert liveness.longest_wait(300) == 30


def test_what_is_under_way_has_a_name_the_longest_first() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def other() -> None:
        with liveness.doing("reading a.jpg"):
            inside.set()
            go_on.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    with liveness.doing("reading b.jpg"):
        assert [what for what, _ in liveness.under_way()] == ["reading a.jpg", "reading b.jpg"]
    go_on.set()
    thread.join()
    assert liveness.under_way() == []
