"""Which addresses may be asked. A URL comes from a stranger's table, and the reader stands inside somebody's network.

The name is checked when it is read, and every address it resolves to when a connection is opened, so that neither a
redirect nor a name server that answers differently the second time leads to an address that was not checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import quote, unquote, urlsplit

import httpcore

from fgvr.config.web import WebPolicy
from fgvr.web.deadline import Deadline, TimedStream
from fgvr.web.names import look_up
from fgvr.web.public import embedded, is_public, is_public_outside

_HOST = re.compile(
    r"(?:(?:\d{1,3}\.){3}\d{1,3}|localhost(?=:)|www\.[a-z0-9.-]+|(?:[a-z0-9-]+\.){2,}[a-z]{2,}|[a-z0-9-]+\.[a-z]{2,}(?=:\d)|"
    r"[a-z0-9-]+\.(?:com|net|org|io|eu|co|shop|app|dev|cloud|example|de|fr|es|it|nl|pl|uk|us|ca|cn|jp|in|br|au|ru))"
    r"(?::\d{1,5})?",
    re.IGNORECASE,
)


class NotAllowed(Exception):
    """The policy forbids this host or address; the message names it."""


@dataclass(frozen=True)
class Address:
    """A URL taken apart, once for checking and asking: two parsers could disagree about which host is meant.

    Attributes:
        scheme: http or https.
        host: in lower case; international names in ASCII, IPv6 without brackets.
        port: null where the URL names none.
        target: path and query, percent-encoded.
        user: (name, password), decoded; null where the URL has none.
    """

    scheme: str
    host: str
    port: int | None
    target: str
    user: tuple[str, str] | None

    @classmethod
    def of(cls, url: str) -> Address:
        """Raises ValueError for what is no http(s) URL with a host; the message does not repeat the URL."""
        split = urlsplit(url)
        if split.scheme not in {"http", "https"} or not split.hostname:
            raise ValueError("not an http:// or https:// URL with a host")
        host = split.hostname
        if ":" not in host:
            host = host.rstrip(".").encode("idna").decode()
        # What browsers send: blanks and other letters encoded, what is encoded already left alone.
        target = quote(split.path or "/", safe="!$%&'()*+,/:;=@~")
        if split.query:
            target += "?" + quote(split.query, safe="!$%&'()*+,/:;=?@[]~")
        user = None
        if split.username is not None:
            user = (unquote(split.username), unquote(split.password or ""))
        return cls(split.scheme, host, split.port, target, user)

    @property
    def place(self) -> str:
        """Host and port as one name, for what is remembered of a server."""
        return f"{self.host}:{self.port or {'http': 80, 'https': 443}[self.scheme]}"

    @property
    def authority(self) -> str:
        """Host and port as the header `Host` has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def shown(uri: str) -> str:
    """A URI for logs and error texts: of a web address neither user nor password, nor what the query says.

    Signed URLs carry their secret in the query. Other URIs come back as they are.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.lower() not in {"http", "https"}:
        return uri
    place, asked, _ = rest.partition("#")[0].partition("?")
    host, slash, path = place.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}" + ("?…" if asked else "")


def without_scheme(path: str) -> bool:
    """Whether a path looks like a web address whose `https://` was left away: `//host/a.jpg`, `www.host.org/a.jpg`."""
    return path.startswith("//") or any(_HOST.fullmatch(part) for part in path.split("/")[:-1])


def check_host(host: str, policy: WebPolicy) -> None:
    """Raises NotAllowed for a host that `allowed_hosts` does not name."""
    for allowed in policy.allowed_hosts:
        if host == allowed or (allowed.startswith("*.") and host.endswith(allowed[1:])):
            return
    if policy.allowed_hosts:
        raise NotAllowed(f"{host} is not among ingest.limits.web.allowed_hosts")


def check_address(address: str, host: str, policy: WebPolicy) -> None:
    """Raises NotAllowed for an IP address that is neither public nor in one of `private_networks`.

    Of an address that leads to another one both have to be: `::ffff:127.0.0.1` is this machine.
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
    """Opens connections to addresses that were checked, and to no other."""

    def __init__(self, policy: WebPolicy, deadline: Deadline) -> None:
        """For a pool of connections under `policy`, which obey the `deadline` of the thread that reads from them."""
        self._policy, self._deadline = policy, deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first address of `host` that answers.

        Raises:
            NotAllowed: one of its addresses is not allowed.
            httpcore.ConnectError: the name is unknown, or nothing answers.
            httpcore.ConnectTimeout: the name servers or none of the addresses answer in time.
            httpcore.ReadTimeout: the time of the whole image is over.
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
