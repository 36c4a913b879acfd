"""How long one image, and one host, may take: servers that redirect slowly, drip, hang or do not exist."""

import http.server
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from fgvr import liveness
from fgvr.config.data import ImageLimits
from fgvr.config.web import WebPolicy
from fgvr.images.read import ImageError, read_image
from fgvr.images.web_addresses import look_up
from fgvr.images.web_hosts import MOST_HOSTS, SilentHosts
from tests.fgvr.images.conftest import Server, a_jpeg, running


class Slow(Server):
    """/redirect/<n> leads to the next one after 0.4 s, for ever; /hang says nothing; /busy is overloaded."""

    def __init__(self) -> None:
        super().__init__(_Answers)
        self.healthy = False


class _Answers(http.server.BaseHTTPRequestHandler):
    server: Slow

    def do_GET(self) -> None:
        kind, _, rest = self.path[1:].partition("/")
        self.server.asked[kind] += 1
        if kind == "redirect" and not self.server.healthy:
            self.server.over.wait(0.4)
            self._send(302, Location=f"/redirect/{int(rest) + 1}")
        elif kind == "hang" and not self.server.healthy:
            self.server.over.wait(30)
        elif kind == "busy":
            self._send(503)
        else:
            self._send(200, a_jpeg())

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def slow() -> Iterator[Slow]:
    with running(Slow()) as server:
        yield server


def limits(**policy: object) -> ImageLimits:
    return ImageLimits(web=WebPolicy(**{"private_networks": ("127.0.0.0/8",), **policy}))


def failed(url: str, within: ImageLimits) -> tuple[str, float]:
    """What the row says, and the seconds that it took."""
    begun = time.monotonic()
    with pytest.raises(ImageError) as caught:
        read_image(url, within)
    return str(caught.value), time.monotonic() - begun


def test_redirects_and_attempts_share_one_time(slow: Slow) -> None:
    # 21 hops of 0.4 s in each of 10 attempts would be 84 s.
    said, took = failed(f"{slow.url}/redirect/0", limits(total_seconds=1.0, retries=9, max_redirects=20))
    assert 0.9 < took < 20
    assert "the 1 s for an image are over: ingest.limits.web.total_seconds" in said
    assert slow.asked["redirect"] in {2, 3, 4}


def test_a_wait_between_attempts_does_not_reach_beyond_the_images_time(slow: Slow) -> None:
    said, took = failed(f"{slow.url}/busy", limits(total_seconds=1.0, retries=50, max_wait_seconds=60))
    assert took < 20  # 50 pauses of up to a minute else
    assert "503" in said


def test_an_image_takes_half_of_the_silence_that_its_worker_is_allowed(slow: Slow) -> None:
    liveness.allow(2.0)
    try:
        said, took = failed(f"{slow.url}/hang", limits(total_seconds=300, retries=3))
    finally:
        liveness.allow(float("inf"))
    assert 0.9 < took < 60
    assert "no answer in time" in said


def test_every_image_that_ends_is_a_sign_of_life(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[float] = []
    monkeypatch.setattr("fgvr.images.web.liveness.beat", lambda: beats.append(time.monotonic()))
    failed(f"{slow.url}/hang", limits(total_seconds=0.3, retries=0))
    read_image(f"{slow.url}/a.jpg", limits(total_seconds=0.3, retries=0))
    assert len(beats) == 2


def test_a_host_that_hangs_is_left_alone_and_tried_again_by_one_image(
    slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fgvr.images.web_hosts.FIRST_PAUSE", 1.0)
    within = limits(total_seconds=0.3, retries=0, host_failures=2, host_pause_seconds=60)
    for _ in range(2):
        assert "no answer in time" in failed(f"{slow.url}/hang", within)[0]
    for _ in range(5):
        said, _ = failed(f"{slow.url}/a.jpg", within)
        assert f"127.0.0.1:{slow.server_port} gave no answer to 2 images one after the other" in said
        assert "ingest.limits.web.host_failures" in said
    assert slow.asked == {"hang": 2}
    time.sleep(1.0)
    failed(f"{slow.url}/hang", within)  # the one that tries: the next pause is twice as long
    assert slow.asked == {"hang": 3}
    time.sleep(1.1)
    assert "is not asked" in failed(f"{slow.url}/hang", within)[0]
    slow.healthy = True
    time.sleep(1.0)
    assert read_image(f"{slow.url}/hang", within).size == (40, 30)
    assert read_image(f"{slow.url}/a.jpg", within).size == (40, 30)


def test_the_image_that_tries_a_host_again_may_follow_its_redirects_and_its_retries(
    shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fgvr.images.web_hosts.FIRST_PAUSE", 0.1)
    within = limits(total_seconds=0.3, retries=2, host_failures=1, read_seconds=0.2)
    failed(f"{shop.url}/trickle-headers.jpg", within)
    time.sleep(0.15)
    assert read_image(f"{shop.url}/to//status/503/1/0", within).size == (40, 30)


def test_answers_that_are_no_image_are_answers(slow: Slow, shop) -> None:
    within = limits(total_seconds=5, retries=0, host_failures=2)
    for _ in range(4):
        assert "404" in failed(f"{shop.url}/gone.jpg", within)[0]
        assert "503" in failed(f"{slow.url}/busy", within)[0]


def test_any_number_of_failures_where_a_run_wants_it(slow: Slow) -> None:
    within = limits(total_seconds=0.2, retries=0, host_failures=0)
    for _ in range(5):
        assert "no answer in time" in failed(f"{slow.url}/hang", within)[0]
    assert slow.asked["hang"] == 5


def test_a_quick_host_that_leads_to_a_dead_one_is_not_to_blame(slow: Slow, shop) -> None:
    within = limits(total_seconds=0.3, retries=0, host_failures=1)
    failed(f"{shop.url}/to/{slow.url}/hang", within)
    assert read_image(f"{shop.url}/a.jpg", within).size == (40, 30)
    assert "is not asked" in failed(f"{slow.url}/a.jpg", within)[0]


def test_a_name_server_that_does_not_answer_takes_no_more_than_the_images_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asleep = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: asleep.wait(20) and [])
    said, took = failed("http://silent-names.example/a.jpg", limits(total_seconds=0.5, retries=3))
    asleep.set()
    assert took < 10
    assert "no answer in time" in said


def test_look_ups_that_nobody_waits_for_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpcore

    asleep = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: (asleep.wait(20) and []) or [])
    monkeypatch.setattr("fgvr.images.web_addresses._PLACES", threading.BoundedSemaphore(2))
    before = set(threading.enumerate())
    for _ in range(6):
        with pytest.raises(httpcore.ConnectTimeout):
            look_up("silent-names.example", 80, 0.05)
    # Threads of other tests may end meanwhile.
    assert [thread.name for thread in threading.enumerate() if thread not in before] == ["look-up"] * 2
    asleep.set()


def test_hosts_are_remembered_in_bounded_memory() -> None:
    hosts = SilentHosts(most=1, longest_pause=60)
    for number in range(MOST_HOSTS + 10):
        hosts.failed(f"host{number}:80")
    assert len(hosts._troubles) == MOST_HOSTS
    assert hosts.refused("host0:80", object()) is None  # forgotten
    times, left = hosts.refused(f"host{MOST_HOSTS + 9}:80", object()) or (0, 0)
    assert times == 1
    assert 9 < left <= 10


def test_a_pause_doubles_up_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("fgvr.images.web_hosts.time.monotonic", lambda: clock[0])
    hosts, seen = SilentHosts(most=2, longest_pause=35), []
    hosts.failed("h:80")
    assert hosts.refused("h:80", object()) is None
    for _ in range(4):
        hosts.failed("h:80")
        _, left = hosts.refused("h:80", object()) or (0, 0.0)
        seen.append(left)
        clock[0] += left
        first, second = object(), object()
        assert hosts.refused("h:80", first) is None
        assert hosts.refused("h:80", first) is None  # its next attempt
        assert hosts.refused("h:80", second) is not None
        hosts.given_up("h:80", second)  # who did not try has nothing to give up
        assert hosts.refused("h:80", second) is not None
    assert seen == [10, 20, 35, 35]
    hosts.given_up("h:80", first)
    assert hosts.refused("h:80", second) is None
    hosts.answered("h:80")
    assert hosts.refused("h:80", object()) is None
