import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import pytest
from pydantic import ValidationError

from fgvr.config.data import ImageLimits
from fgvr.config.web import WebPolicy
from fgvr.images.read import ImageError, read_image
from fgvr.schemas import Reason

HERE = ("127.0.0.0/8",)


def limits(max_bytes: int = 1_000_000, **policy: object) -> ImageLimits:
    return ImageLimits(max_bytes=max_bytes, web=WebPolicy(**{"private_networks": HERE, "retries": 0, **policy}))


def failure(url: str, within: ImageLimits) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read_image(url, within)
    return caught.value


def test_answers(shop):
    assert read_image(f"{shop.url}/a.jpg", limits(user_agent="fgvr (photos@shop.example)")).size == (40, 30)
    assert shop.headers["/a.jpg"]["User-Agent"] == "fgvr (photos@shop.example)"
    assert shop.headers["/a.jpg"]["Host"] == f"127.0.0.1:{shop.server_port}"
    for path, reason in {
        "/gone.jpg": Reason.NOT_FOUND,
        "/status/410/9/": Reason.NOT_FOUND,
        "/status/403/9/": Reason.UNREADABLE,
        "/status/500/9/": Reason.UNREADABLE,
        "/packed.jpg": Reason.UNREADABLE,
        "/cut.jpg": Reason.UNREADABLE,
        "/round": Reason.UNREADABLE,
    }.items():
        assert (path, failure(shop.url + path, limits()).reason) == (path, reason)


def test_names_that_no_address_may_have(shop):
    """Blanks, umlauts and what is encoded already arrive as browsers send them."""
    for written, sent in {
        "/ein bild/ü.jpg?größe=1": "/ein%20bild/%C3%BC.jpg?gr%C3%B6%C3%9Fe=1",
        "/a%20b%2Fc.jpg": "/a%20b%2Fc.jpg",
        "?x=1": "/?x=1",
        "/a\r\nHost: evil": "/aHost:%20evil",  # urlsplit removes line breaks, as the URL standard asks
        "/a.jpg#part": "/a.jpg",
    }.items():
        read_image(shop.url + written, limits())
        assert shop.asked[sent] == 1, (written, dict(shop.asked))


@pytest.mark.parametrize("path", ["/endless.jpg", "/announced.jpg"])
def test_no_more_than_the_limit_is_downloaded(shop, path):
    assert failure(shop.url + path, limits(max_bytes=200_000)).reason is Reason.TOO_MANY_BYTES
    time.sleep(0.2)
    sent = shop.sent[path]
    time.sleep(0.2)
    assert shop.sent[path] == sent  # the connection is closed
    # what waits in both sockets' buffers comes on top of what was read
    assert sent <= 200_000 + 8 * 2**20


def test_passing_failures_are_tried_again(shop):
    quick = limits(retries=3, max_wait_seconds=30)
    started = time.monotonic()
    assert read_image(f"{shop.url}/status/503/2/0", quick).size == (40, 30)
    assert shop.asked["/status/503/2/0"] == 3
    assert time.monotonic() - started < 2  # Retry-After: 0 is obeyed
    started = time.monotonic()
    assert read_image(f"{shop.url}/status/429/1/1", quick).size == (40, 30)
    assert time.monotonic() - started >= 1
    # A server that asks for an hour, in either of the two forms, has refused; so has one that never has it.
    for wait in ("3600", formatdate(time.time() + 3600, usegmt=True).replace(" ", "%20")):
        assert failure(f"{shop.url}/status/429/9/{wait}", quick).reason is Reason.UNREADABLE
    assert "429" in str(failure(f"{shop.url}/status/429/9/0", quick))
    assert shop.asked["/status/429/9/0"] == 4
    failure(f"{shop.url}/status/403/9/", quick)
    assert shop.asked["/status/403/9/"] == 1


def test_a_broken_connection_is_tried_again():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.jpg"
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(failure, address, limits(retries=1, max_wait_seconds=0.1))
            for _ in range(2):
                server.accept()[0].close()
            assert reading.result().reason is Reason.UNREADABLE


@pytest.mark.parametrize("path", ["/trickle.jpg", "/trickle-headers.jpg"])
def test_a_server_that_sends_a_byte_now_and_then_holds_nobody(shop, path):
    started = time.monotonic()
    error = failure(shop.url + path, limits(total_seconds=0.6, read_seconds=10))
    assert error.reason is Reason.UNREADABLE
    assert "no answer in time" in str(error)
    assert time.monotonic() - started < 3


def test_requests_at_once(shop):
    within = limits(max_requests=8, max_requests_per_host=3)
    urls = [f"{shop.url}/slow{n}.jpg" for n in range(18)]
    with ThreadPoolExecutor(12) as pool:
        assert all(image.size == (40, 30) for image in pool.map(lambda url: read_image(url, within), urls))
    assert shop.most_inside == 3


def test_redirects_are_checked(shop):
    assert read_image(f"{shop.url}/to//a.jpg", limits()).size == (40, 30)
    for target in ("http://10.0.0.1/a.jpg", "http://169.254.169.254/latest/meta-data", "http://[::1]/a.jpg"):
        assert failure(f"{shop.url}/to/{target}", limits()).reason is Reason.NOT_ALLOWED
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x"):
        assert failure(f"{shop.url}/to/{target}", limits()).reason is Reason.NOT_ALLOWED
    elsewhere = failure(f"{shop.url}/to/http://other.example/a.jpg", limits(allowed_hosts=("127.0.0.1",)))
    assert elsewhere.reason is Reason.NOT_ALLOWED
    read_image(f"http://me:pw@127.0.0.1:{shop.server_port}/to//a.jpg", limits())
    assert shop.headers["/a.jpg"]["Authorization"] == "Basic bWU6cHc="


def test_no_way_round_the_policy(shop):
    """Else whoever writes `zip::http` or `ftp` would have fsspec ask in the policy's place."""
    place = f"127.0.0.1:{shop.server_port}/a.jpg"
    for uri in (
        f"simplecache::http://{place}",
        f"zip://x.jpg::http://{place}",
        f"s3://bucket/x::http://{place}",
        f"tar+http://{place}#512+10/a.jpg",
        f"tar+simplecache::http://{place}#512+10/a.jpg",
        f"parquet+http://{place}#0.0/00000000/image",
        f"ftp://{place}",
        f"webhdfs://{place}",
    ):
        assert (uri, failure(uri, limits()).reason) == (uri, Reason.NOT_ALLOWED)
    assert failure(f"HTTP://127.0.0.1:{shop.server_port}/a.jpg", ImageLimits()).reason is Reason.NOT_ALLOWED
    assert not shop.asked


def test_a_password_does_not_follow_a_redirect(shop, monkeypatch):
    """It goes to the host that it was written for, and not to where that one sends."""
    known = {"a.example": "127.0.0.1", "b.example": "127.0.0.1"}
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: real(known.get(host, host), *a, **k))
    read_image(f"http://me:pw@a.example:{shop.server_port}/to/http://b.example:{shop.server_port}/b.jpg", limits())
    assert shop.headers["/b.jpg"]["Host"] == f"b.example:{shop.server_port}"
    assert "Authorization" not in shop.headers["/b.jpg"]


def test_nothing_secret_is_said(shop, caplog):
    caplog.set_level(logging.DEBUG, logger="fgvr")
    address = f"http://me:hunter2@127.0.0.1:{shop.server_port}"
    for path, within in {
        "/gone.jpg?X-Amz-Signature=s3cr3t": limits(),
        "/status/500/9/?sig=s3cr3t": limits(),
        "/to/http://10.0.0.1/?sig=s3cr3t": limits(),
        "/a.jpg?sig=s3cr3t": limits(max_bytes=10),
        "/page?sig=s3cr3t": limits(allowed_hosts=("x.example",)),
    }.items():
        error = failure(address + path, within)
        said = str(error) + str(error.failure) + caplog.text
        assert "hunter2" not in said
        assert "s3cr3t" not in said
        assert f"http://127.0.0.1:{shop.server_port}/" in str(error)  # the rest is needed to find the row


def test_settings_that_cannot_be_meant():
    for wrong in (
        {"private_networks": ("10.1.2.3/8",)},
        {"private_networks": ("intranet",)},
        {"allowed_hosts": ("https://shop.example",)},
        {"allowed_hosts": ("*.",)},
        {"allowed_hosts": ("shop.example.",)},
        {"allowed_hosts": ("ü" * 80,)},
        {"user_agent": "x\r\nHost: y"},
    ):
        with pytest.raises(ValidationError):
            WebPolicy(**wrong)


def test_a_redirect_says_where_to_in_whatever_letters(shop):
    for kind, asked in {"utf8": "/gr%C3%B6%C3%9Fe/%C3%BC%20b.jpg?%C3%A4=1", "latin1": "/gr%C3%B6%C3%9Fe.jpg"}.items():
        assert read_image(f"{shop.url}/raw/{kind}", limits()).size == (40, 30)
        assert shop.asked[asked] == 1, dict(shop.asked)


@pytest.mark.parametrize("kind", ["empty", "blank"])
def test_a_redirect_to_nowhere_is_said_to_be_one(shop, kind):
    found = failure(f"{shop.url}/raw/{kind}", limits())
    assert found.reason is Reason.UNREADABLE
    assert "HTTP status 301, a redirect that does not say where to" in found.detail
    assert shop.asked[f"/raw/{kind}"] == 1


@pytest.mark.parametrize(
    ("uri", "hinted"),
    [
        ("//cdn/a.jpg", True),
        ("/photos/127.0.0.1:8080/a.jpg", True),
        ("/photos/localhost:8080/a.jpg", True),
        ("/photos/www.shop/a.jpg", True),
        ("/photos/img.shop.test/2024/a.jpg", True),
        ("/photos/shop.de/a.jpg", True),
        ("/photos/v1.0/a.jpg", False),
        ("/photos/2024.10.01/a.jpg", False),
        ("/photos/img.shop.test", False),
    ],
)
def test_a_path_that_looks_like_an_address_gets_a_hint(uri, hinted):
    found = failure(uri, limits())
    assert found.reason is Reason.NOT_FOUND
    assert ("without https:// before it?" in found.detail) is hinted


def test_an_image_inside_its_own_address_is_named_so():
    found = failure("/photos/data:image/png;base64," + "A" * 10_000, limits())
    assert found.reason is Reason.NOT_ALLOWED
    assert "data:" in found.detail
    assert len(found.detail) < 200
