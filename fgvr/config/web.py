"""What a run may ask of web servers, and how hard."""

from __future__ import annotations

from ipaddress import ip_network

from pydantic import Field, field_validator

from fgvr.config.base import Part


class WebPolicy(Part):
    """Images at http:// and https:// URLs. Numbers hold for each process; they do not change what is computed."""

    allowed_hosts: tuple[str, ...] = ()
    """Only these are asked: names, or `*.shop.example` for all below it, redirects included; empty: any."""
    private_networks: tuple[str, ...] = ()
    """Networks that may be asked although they are not public, in CIDR notation: 10.20.0.0/16, 127.0.0.1/32. Others
    (loopback, link-local, a cloud's metadata server …) are refused, whatever name leads to them."""
    max_requests: int = Field(default=32, ge=1)
    """Requests at once."""
    max_requests_per_host: int = Field(default=8, ge=1)
    """Of these, to one host."""
    connect_seconds: float = Field(default=10, gt=0)
    """Longest wait for a connection."""
    read_seconds: float = Field(default=30, gt=0)
    """Longest wait for the next bytes."""
    total_seconds: float = Field(default=300, gt=0)
    """Longest time of one image: the look-up of its host's name, redirects, all attempts and the waits between them; of
    images in object stores, too. At most half of `cluster.limits.silent_minutes`, whatever stands here."""
    retries: int = Field(default=3, ge=0)
    """Further attempts after a broken connection, a timeout, or an answer 408, 429, 500, 502, 503 or 504, as far as
    `total_seconds` reaches."""
    host_failures: int = Field(default=3, ge=0)
    """A host at which so many images one after the other got no answer in their time is left alone for a while: its
    rows fail at once, and say so; 0: every row tries."""
    host_pause_seconds: float = Field(default=300, ge=0)
    """Longest such while; the first are shorter. Then one image tries the host for all."""
    max_wait_seconds: float = Field(default=60, ge=0)
    """Longest wait between attempts; a server that asks for more (Retry-After) has refused."""
    max_redirects: int = Field(default=5, ge=0)
    """Redirects followed; each target is checked like the URL itself."""
    user_agent: str = Field(default="fgvr", min_length=1, pattern=r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$")
    """How the reader calls itself; large sites want an address to write to."""

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
            if not name or set(name) & set("/:*@ ") or name != name.lower():
                raise ValueError(f"{host!r} is no host: a name in lower case, without scheme or port, or *.name")
        return hosts
