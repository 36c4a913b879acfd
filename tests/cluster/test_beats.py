import threading

from cluster.heartbeat import beating


def test_it_is_done_again_and_again_until_the_block_ends() -> None:
    times: list[int] = []
    thrice = threading.Event()

    def do() -> None:
        times.append(1)
        if len(times) == 3:
            thrice.set()

    with beating(do, 0.001):
        assert thrice.wait(60)
    done = len(times)
    threading.Event().wait(0.02)  # twenty beats
    assert len(times) == done


def test_a_call_that_hangs_does_not_hold_up_the_end() -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def do() -> None:
        begun.set()
        goes_on.wait(60)

    with beating(do, 0.001, last=0.001):
        assert begun.wait(60)
    assert not goes_on.is_set()  # the block has ended while the call still waits
    goes_on.set()


def test_without_a_limit_the_call_under_way_is_waited_for() -> None:
    begun, ended = threading.Event(), threading.Event()

    def do() -> None:
        begun.set()
        threading.Event().wait(0.05)
        ended.set()

    with beating(do, 0.001):
        assert begun.wait(60)
    assert ended.is_set()
