"""Which IP addresses are public: those that anybody on the internet could ask.

`ipaddress.is_global` alone does not say: 192.0.0.192, where a cloud answers with an instance's secrets, and
64:ff9b:1::/48 were global to Python until 3.11.10 and 3.12.4 (CVE-2024-4032), others are to every version. So what must
not be asked stands here, and both have to agree. Sources: IANA's special-purpose address registries for IPv4 and IPv6
(RFC 6890, with later entries), RFC 4291, 3879, 5214, 6052, 7526 and 8215, and Azure's documentation of 168.63.129.16.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

Address = IPv4Address | IPv6Address

_NOT_PUBLIC_4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network; 0.0.0.0 is this machine on Linux
        "10.0.0.0/8",
        "100.64.0.0/10",  # behind a provider's NAT; Alibaba's metadata, 100.100.100.200
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's WireServer: public by its number, and inside every virtual machine
        "169.254.0.0/16",  # link-local; the metadata of most clouds, 169.254.169.254
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata, 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4, given up
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and 255.255.255.255
    )
)
_PUBLIC_6: Final = IPv6Network("2000::/3")
"""All of IPv6 that is given out for global use: link-local, site-local, unique local, multicast … are not in it."""
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


def is_public(ip: Address) -> bool:
    """Whether an address, and the IPv4 address inside it if there is one, is public."""
    if isinstance(ip, IPv4Address):
        return ip.is_global and not any(ip in network for network in _NOT_PUBLIC_4)
    return is_public_outside(ip) and all(map(is_public, embedded(ip)))


def is_public_outside(ip: IPv6Address) -> bool:
    """Whether an address is public as far as IPv4 addresses inside it are; the rest of it says where it leads, too."""
    if ip in _MAPPED or ip in _NAT64:  # a way to write, or to reach, nothing but the IPv4 address
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
