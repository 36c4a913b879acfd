"""Which addresses are public, by the registries; the same for every version of Python's `ipaddress`."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from fgvr.config.web import WebPolicy
from fgvr.images.web_addresses import NotAllowed, check_address, is_public

INSIDE = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 100.100.100.200 127.0.0.1 127.255.255.254
169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.8 192.0.0.9 192.0.0.170 192.0.0.192
192.0.2.7 192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 168.63.129.16
224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.254 255.255.255.255
:: ::1 ::7f00:1 ::808:808 ::127.0.0.1 ::10.0.0.1 ::8.8.8.8 ::ffff:0:808:808
::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:168.63.129.16 ::ffff:192.0.0.192 ::ffff:100.64.0.1 ::ffff:0.0.0.0
64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b::168.63.129.16 64:ff9b:1::1 64:ff9b:1:ffff::808:808
100::1 100:0:0:1::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1 2001:10::1 2001:20::1 2001:db8::1
2001:1::1 2002:7f00:1:: 2002:a9fe:a9fe::1 2002:a83f:8110:: 2002:c0a8:101::1 3fff::1 5f00::1
2606:4700:0:0:0:5efe:10.0.0.1 2606:4700::200:5efe:192.168.0.1
::5efe:8.8.8.8 fd00::5efe:8.8.8.8 fe80::200:5efe:8.8.8.8 ff02::5efe:8.8.8.8 2001:0:808:808::f7f7:f7f7
fc00::1 fd00:ec2::254 fd12:3456::1 fe80::1 febf::1 fec0::1 feff::1 ff02::1 ff0e::1 4000::1 e000::1
"""
OUTSIDE = """
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.1 93.184.216.34 100.63.255.255 100.128.0.1 126.255.255.255 128.0.0.1
168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.1 172.15.255.255 172.32.0.1 191.255.255.255 192.0.1.1
192.1.0.1 192.167.255.255 192.169.0.1 198.17.255.255 198.20.0.1 203.0.112.1 223.255.255.255
2001:200::1 2001:4860:4860::8888 2606:4700::1111 2a00:1450:4001::1 2003::1 2620:0:ccc::2
::ffff:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::1 2606:4700::5efe:808:808
"""


@pytest.mark.parametrize("address", INSIDE.split())
def test_addresses_that_strangers_must_not_reach(address):
    assert not is_public(ip_address(address))
    with pytest.raises(NotAllowed, match="not a public address"):
        check_address(address, "photos.example", WebPolicy())
    if ":" in address:
        with pytest.raises(NotAllowed):
            check_address(f"{address}%eth0", "photos.example", WebPolicy())


@pytest.mark.parametrize("address", OUTSIDE.split())
def test_addresses_of_the_internet(address):
    assert is_public(ip_address(address))
    check_address(address, "photos.example", WebPolicy())
    if ":" in address:
        check_address(f"{address}%2", "photos.example", WebPolicy())


def test_the_list_does_not_rest_on_pythons(monkeypatch):
    """Python 3.11.7 calls some addresses global that later versions do not, and the other way round."""
    for kind in (IPv4Address, IPv6Address):
        monkeypatch.setattr(kind, "is_global", True)
    for address in INSIDE.split():
        assert not is_public(ip_address(address)), address


def test_networks_that_may_be_asked_all_the_same():
    policy = WebPolicy(private_networks=("10.20.0.0/16", "168.63.129.16/32", "64:ff9b:1::/48", "fec0::/10"))
    asked = "10.20.1.1 ::ffff:10.20.1.1 64:ff9b::10.20.1.1 2002:a14:101::1 168.63.129.16 64:ff9b:1::7 fec0::1"
    for address in asked.split():
        check_address(address, "h", policy)
    for address in [
        "10.21.1.1",
        "::ffff:10.21.1.1",
        "64:ff9b::10.21.1.1",
        "64:ff9b:2::7",
        "2002:a15:101::1",
        "::1",
        "fd00::5efe:10.20.1.1",
    ]:
        with pytest.raises(NotAllowed):
            check_address(address, "h", policy)
