"""DNS lookups in bounded time, since the system's resolver has no timeout; and which addresses may be requested."""

from __future__ import annotations

import math
import re
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import httpcore

from fgvr.config.web import WebPolicy
from fgvr.images.web_hosts import Deadline, TimedStream

_MOST: Final = 64
"""Most concurrent lookups, including those whose caller no longer waits."""
_PLACES: Final = threading.BoundedSemaphore(_MOST)

_NOT_PUBLIC_4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network; 0.0.0.0 is this machine on Linux
        "10.0.0.0/8",
        "100.64.0.0/10",  # behind a provider's NAT; Alibaba's metadata, 100.100.100.200
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's WireServer: looks public, but is inside every virtual machine
        "169.254.0.0/16",  # link-local; the metadata of most clouds, 169.254.169.254
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata, 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays, deprecated
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and 255.255.255.255
    )
)
_PUBLIC_6: Final = IPv6Network("2000::/3")
"""The part of IPv6 that is assigned for global use; link-local, site-local, unique local, multicast … are outside."""
_NOT_PUBLIC_6: Final = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
)
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_ISATAP: Final = (0x00005EFE, 0x02005EFE)
_HOST = re.compile(
    r"(?:(?:\d{1,3}\.){3}\d{1,3}|localhost(?=:)|www\.[a-z0-9.-]+|(?:[a-z0-9-]+\.){2,}[a-z]{2,}|[a-z0-9-]+\.[a-z]{2,}(?=:\d)|"
    r"[a-z0-9-]+\.(?:com|net|org|io|eu|co|shop|app|dev|cloud|example|de|fr|es|it|nl|pl|uk|us|ca|cn|jp|in|br|au|ru))"
    r"(?::\d{1,5})?",
    re.IGNORECASE,
)


def look_up(host: str, port: int, seconds: float) -> list[str]:
    """The addresses of `host`, without duplicates.

    Raises:
        httpcore.ConnectError: the name does not exist.
        httpcore.ConnectTimeout: the name servers do not answer within `seconds`. The lookup continues in the
            background; while dozens of them do, no new one is started.
    """
    places = _PLACES
    found: list[str] = []
    failed: list[Exception] = []
    done = threading.Event()

    def ask() -> None:
        try:
            found.extend(str(place[0]) for *_, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failed.append(error)
        finally:
            places.release()
            done.set()

    wait = None if math.isinf(seconds) else min(seconds, threading.TIMEOUT_MAX)
    if not places.acquire(timeout=wait):
        raise httpcore.ConnectTimeout("the name servers answer none of many questions")
    threading.Thread(target=ask, name="look-up", daemon=True).start()
    if not done.wait(wait):
        raise httpcore.ConnectTimeout("the name servers do not answer")
    if failed:
        raise httpcore.ConnectError(f"the host is not known ({failed[0]})") from failed[0]
    return list(dict.fromkeys(found))


# Which IP addresses are public: those that anybody on the internet can reach.
#
# `ipaddress.is_global` alone is not enough: 192.0.0.192, where a cloud serves an instance's secrets, and 64:ff9b:1::/48
# counted as global in Python until 3.11.10 and 3.12.4 (CVE-2024-4032), and others do in every version. So this
# module has its own list, and both must agree. Sources: IANA's special-purpose address registries for IPv4 and IPv6
# (RFC 6890, with later entries), RFC 4291, 3879, 5214, 6052, 7526 and 8215, and Azure's documentation of
# 168.63.129.16.

IPAddress = IPv4Address | IPv6Address


def is_public(ip: IPAddress) -> bool:
    """Whether an address, and the IPv4 address embedded in it if any, is public."""
    if isinstance(ip, IPv4Address):
        return ip.is_global and not any(ip in network for network in _NOT_PUBLIC_4)
    return is_public_outside(ip) and all(map(is_public, embedded(ip)))


def is_public_outside(ip: IPv6Address) -> bool:
    """Whether an IPv6 address is public apart from embedded IPv4 addresses; the rest of it also decides its target."""
    if ip in _MAPPED or ip in _NAT64:  # merely another way to write or reach the IPv4 address
        return True
    return ip in _PUBLIC_6 and ip.is_global and not any(ip in network for network in _NOT_PUBLIC_6)


def embedded(ip: IPv6Address) -> list[IPv4Address]:
    """IPv4 addresses that an IPv6 address leads to: mapped, NAT64, 6to4, ISATAP, Teredo's server and client."""
    number = int(ip)
    found = []
    if ip in _MAPPED or ip in _NAT64 or number >> 32 & 0xFFFFFFFF in _ISATAP:
        found.append(IPv4Address(number & 0xFFFFFFFF))
    if ip in _SIX_TO_FOUR:
        found.append(IPv4Address(number >> 80 & 0xFFFFFFFF))
    return [*found, *(ip.teredo or ())]


# Which addresses may be requested. URLs come from untrusted tables, and the reader runs inside somebody's network.
#
# The host name is checked when it is parsed, and every address that it resolves to when a connection is opened, so
# that neither a redirect nor a DNS server that changes its answer leads to an unchecked address.


class NotAllowed(Exception):
    """The policy forbids this host or address; the message names it."""


@dataclass(frozen=True)
class Address:
    """A parsed URL, used for both the check and the request: two parsers might disagree on which host is meant.

    Attributes:
        scheme: http or https.
        host: in lower case; international names in ASCII, IPv6 without brackets.
        port: None if the URL names none.
        target: path and query, percent-encoded.
        user: (name, password), decoded; None if the URL has none.
    """

    scheme: str
    host: str
    port: int | None
    target: str
    user: tuple[str, str] | None

    @classmethod
    def of(cls, url: str) -> Address:
        """Parse a URL; raises ValueError if it is not an http(s) URL with a host. The message never repeats the URL."""
        split = urlsplit(url)
        if split.scheme not in {"http", "https"} or not split.hostname:
            raise ValueError("not an http:// or https:// URL with a host")
        host = split.hostname
        if ":" not in host:
            host = host.rstrip(".").encode("idna").decode()
        # Encode as browsers do: blanks and non-ASCII letters, but not what is already encoded.
        target = quote(split.path or "/", safe="!$%&'()*+,/:;=@~")
        if split.query:
            target += "?" + quote(split.query, safe="!$%&'()*+,/:;=?@[]~")
        user = None
        if split.username is not None:
            user = (unquote(split.username), unquote(split.password or ""))
        return cls(split.scheme, host, split.port, target, user)

    @property
    def place(self) -> str:
        """Host and port as one key, for what is remembered about a server."""
        return f"{self.host}:{self.port or {'http': 80, 'https': 443}[self.scheme]}"

    @property
    def authority(self) -> str:
        """Host and port as in the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def shown(uri: str) -> str:
    """A URI for logs and error messages: a web address without user, password and query.

    Signed URLs carry their secret in the query. Other URIs are returned unchanged.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.lower() not in {"http", "https"}:
        return uri
    place, asked, _ = rest.partition("#")[0].partition("?")
    host, slash, path = place.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}" + ("?…" if asked else "")


def without_scheme(path: str) -> bool:
    """Whether a path looks like a web address without `https:` or `https://`: `//host/a.jpg`, `www.host.org/a.jpg`."""
    return path.startswith("//") or any(_HOST.fullmatch(part) for part in path.split("/")[:-1])


def check_host(host: str, policy: WebPolicy) -> None:
    """Raises NotAllowed for a host that `allowed_hosts` does not list."""
    for allowed in policy.allowed_hosts:
        name = allowed.removeprefix("*.").encode("idna").decode()  # as `Address.host` is
        if host.endswith(f".{name}") if allowed.startswith("*.") else host == name:
            return
    if policy.allowed_hosts:
        raise NotAllowed(f"{host} is not among ingest.limits.web.allowed_hosts")


def check_address(address: str, host: str, policy: WebPolicy) -> None:
    """Raises NotAllowed for an IP address that is neither public nor in one of `private_networks`.

    If it embeds another address, both must be allowed: `::ffff:127.0.0.1` is this machine.
    """
    ip = ip_address(address.partition("%")[0])
    allowed = [ip_network(network) for network in policy.private_networks]
    if is_public(ip) or any(ip in network for network in allowed):
        return
    if isinstance(ip, IPv6Address) and is_public_outside(ip):
        inside = embedded(ip)
        if inside and all(is_public(form) or any(form in network for network in allowed) for form in inside):
            return
    raise NotAllowed(
        f"{host} is at {address}, which is not a public address; ingest.limits.web.private_networks names networks "
        "that may be asked all the same"
    )


class CheckedBackend(httpcore.SyncBackend):
    """Opens connections only to addresses that were checked."""

    def __init__(self, policy: WebPolicy, deadline: Deadline) -> None:
        """For a connection pool under `policy`; connections obey the `deadline` of the thread that reads from them."""
        self._policy, self._deadline = policy, deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first address of `host` that accepts one.

        Raises:
            NotAllowed: one of its addresses is not allowed.
            httpcore.ConnectError: the name does not exist, or no address accepts a connection.
            httpcore.ConnectTimeout: the name servers, or all of the addresses, do not respond in time.
            httpcore.ReadTimeout: the time for the whole image is over.
        """
        addresses = look_up(host, port, self._deadline.within(timeout))
        for address in addresses:
            check_address(address, host, self._policy)
        for number, address in enumerate(addresses, start=1):
            try:
                seconds = self._deadline.within(timeout)
                plain = super().connect_tcp(address, port, seconds, local_address, socket_options)
                return TimedStream(plain, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(addresses):
                    raise
        raise httpcore.ConnectError("the host has no address")
