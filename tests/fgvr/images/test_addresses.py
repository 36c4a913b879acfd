import socket

import httpcore
import pytest

from fgvr.config.web import WebPolicy
from fgvr.images.web_addresses import Address, CheckedBackend, NotAllowed, check_address, check_host, shown
from fgvr.images.web_hosts import Deadline


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",  # noqa: S104
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::a9fe:a9fe",  # NAT64 of 169.254.169.254
        "2002:7f00:1::",  # 6to4 of 127.0.0.1
    ],
)
def test_addresses_inside(address):
    with pytest.raises(NotAllowed, match=r"photos\.example is at .*private_networks"):
        check_address(address, "photos.example", WebPolicy())


def test_addresses_that_may_be_asked():
    for public in ("93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"):
        check_address(public, "h", WebPolicy())
    policy = WebPolicy(private_networks=("10.20.0.0/16", "fd00::/8"))
    check_address("10.20.3.4", "h", policy)
    check_address("fd00::1", "h", policy)
    for other in ("10.21.0.1", "127.0.0.1", "169.254.169.254"):
        with pytest.raises(NotAllowed):
            check_address(other, "h", policy)


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1", "127.1", "0"])
def test_other_spellings_of_this_machine(host):
    """What the system's resolver makes of them counts."""
    with pytest.raises((NotAllowed, httpcore.ConnectError)):
        CheckedBackend(WebPolicy(), Deadline()).connect_tcp(host, 80, 1)


def test_a_name_with_one_bad_address_is_not_asked(monkeypatch):
    found = [(0, 0, 0, "", (address, 80)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(NotAllowed, match=r"at 10\.0\.0\.1"):
        CheckedBackend(WebPolicy(), Deadline()).connect_tcp("two.example", 80, 1)


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch):
    """A name server that answers otherwise when it is asked again is not asked again."""
    answers = iter(["93.184.216.34", "127.0.0.1"])
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (next(answers), 80))])

    def connect(address, *arguments, **options):
        asked.append(address)
        raise OSError("not here")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(httpcore.ConnectError):
        CheckedBackend(WebPolicy(), Deadline()).connect_tcp("rebinding.example", 80, 1)
    assert asked == [("93.184.216.34", 80)]


def test_hosts():
    policy = WebPolicy(allowed_hosts=("shop.example", "*.cdn.example"))
    for allowed in ("shop.example", "a.cdn.example", "a.b.cdn.example"):
        check_host(allowed, policy)
    for other in ("www.shop.example", "cdn.example", "evilcdn.example", "shop.example.evil", "93.184.216.34"):
        with pytest.raises(NotAllowed, match="allowed_hosts"):
            check_host(other, policy)
    check_host("anything.example", WebPolicy())
    german = WebPolicy(allowed_hosts=("münchen.example", "*.straße.example"))
    for url in ("https://münchen.example/a", "https://XN--MNCHEN-3YA.example./a", "https://bilder.straße.example/a"):
        check_host(Address.of(url).host, german)
    with pytest.raises(NotAllowed, match="allowed_hosts"):
        check_host(Address.of("https://munchen.example/a").host, german)


@pytest.mark.parametrize(
    ("url", "host", "authority", "target"),
    [
        ("http://Shop.Example./a.jpg", "shop.example", "shop.example", "/a.jpg"),
        ("https://münchen.example:8443", "xn--mnchen-3ya.example", "xn--mnchen-3ya.example:8443", "/"),
        ("http://[2606:4700::1]:81/x?y#z", "2606:4700::1", "[2606:4700::1]:81", "/x?y"),
        ("http://good.example@evil.example/x", "evil.example", "evil.example", "/x"),
        ("http://a:b@c@host.example/", "host.example", "host.example", "/"),
    ],
)
def test_taken_apart(url, host, authority, target):
    address = Address.of(url)
    assert (address.host, address.authority, address.target) == (host, authority, target)


@pytest.mark.parametrize("url", ["ftp://x/y", "http://", "http:///x", "http://a:port/", "//x/y", "http://" + "a" * 70])
def test_no_web_address(url):
    with pytest.raises(ValueError):  # noqa: PT011  # of several causes
        Address.of(url)


def test_shown_without_secrets():
    assert shown("https://me:pw@host.example:81/a/b.jpg?sig=x&y=1#part") == "https://host.example:81/a/b.jpg?…"
    assert shown("HTTP://a@b/c") == "HTTP://b/c"
    assert shown("https://host.example?token=1") == "https://host.example?…"
    assert shown("https://host/a@b.jpg") == "https://host/a@b.jpg"
    for other in ("s3://bucket/what?.jpg", "/photos/a?b.jpg", "file:///a%20b.jpg"):
        assert shown(other) == other
