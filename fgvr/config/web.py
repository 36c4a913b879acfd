"""What a run may ask of web servers, and how hard."""

from __future__ import annotations

from ipaddress import ip_network

from pydantic import Field, field_validator

from fgvr.config.base import Part


class WebPolicy(Part):
    """Images at http:// and https:// URLs. Limits apply per process; they do not change what is computed."""

    allowed_hosts: tuple[str, ...] = ()
    """The only hosts that may be requested, redirects included: names, or `*.shop.example` for all below it; empty: any
    host."""
    private_networks: tuple[str, ...] = ()
    """Networks that may be requested although they are not public, in CIDR notation: 10.20.0.0/16, 127.0.0.1/32. Others
    (loopback, link-local, a cloud's metadata server …) are refused, whatever name leads to them."""
    max_requests: int = Field(default=32, ge=1)
    """Concurrent requests."""
    max_requests_per_host: int = Field(default=8, ge=1)
    """Concurrent requests to one host."""
    connect_seconds: float = Field(default=10, gt=0)
    """Connection timeout, in seconds."""
    read_seconds: float = Field(default=30, gt=0)
    """Longest wait for the next bytes, in seconds."""
    total_seconds: float = Field(default=300, gt=0)
    """Longest time spent on one image, in seconds: DNS lookup, redirects, all attempts and the waits between them; it
    also applies to images in object stores. In effect never more than half of `cluster.limits.silent_minutes`."""
    retries: int = Field(default=3, ge=0)
    """Further attempts after a broken connection, a timeout, or a response 408, 429, 500, 502, 503 or 504, as far as
    `total_seconds` allows."""
    host_failures: int = Field(default=3, ge=0)
    """After this many images in a row without a response in time, a host is left alone for a while: its rows fail at
    once and say so. 0: every row tries."""
    host_pause_seconds: float = Field(default=300, ge=0)
    """Longest such pause, in seconds; the first ones are shorter. After it one image tries the host for all."""
    max_wait_seconds: float = Field(default=60, ge=0)
    """Longest wait between attempts, in seconds; a server that asks for more (Retry-After) counts as refusing."""
    max_redirects: int = Field(default=5, ge=0)
    """Redirects followed; each target is checked like the URL itself."""
    user_agent: str = Field(default="fgvr", min_length=1, pattern=r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$")
    """User-Agent header, in ASCII; large sites want a contact address in it."""

    @field_validator("private_networks")
    @classmethod
    def _networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ip_network(network)  # its ValueError says what is wrong
        return networks

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            name = host.removeprefix("*.")
            if not name or set(name) & set("/:*@ ") or name != name.lower() or name.endswith("."):
                raise ValueError(f"{host!r} is no host: a name in lower case, without scheme or port, or *.name")
            name.encode("idna")  # its ValueError says what is wrong
        return hosts
