"""The guard: which addresses a catalogue's URL, or a redirect, may reach."""

from ipaddress import ip_address

import pytest

from pipeline.addresses import AddressGuard, host_and_port, is_public

PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fc00::1",
    "fd12:3456::1",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd20:ce::254",
    "::ffff:168.63.129.16",
    "64:ff9b::a83f:8110",
]
PUBLIC = ["8.8.8.8", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_of_this_network_are_refused(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_internet_are_allowed(address: str) -> None:
    assert is_public(ip_address(address))


def test_a_host_is_allowed_by_its_name_or_its_name_and_port() -> None:
    guard = AddressGuard(["Shop.Example", "127.0.0.1:8000", "[::1]:80"])
    assert guard.allows_host("shop.example.", 443)
    assert guard.allows_host("127.0.0.1", 8000)
    assert guard.allows_host("::1", 80)
    assert not guard.allows_host("127.0.0.1", 8001)
    assert not guard.allows_host("evil.shop.example", 443)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://127.0.0.1/shop", "127.0.0.1:80"),
        ("https://shop.example", "shop.example:443"),
        ("http://user:pw@127.0.0.1:9861/", "127.0.0.1:9861"),
        ("http://[::1]/x", "[::1]:80"),
        ("s3://bucket/a", None),
        ("/folder", None),
        ("http://host:port/", None),
        ("", None),
    ],
)
def test_what_an_operator_names_is_a_host_and_a_port(url: str, place: str | None) -> None:
    assert host_and_port(url) == place
    if place is not None:
        host, _, port = place.rpartition(":")
        assert AddressGuard([place]).allows_host(host, int(port))
        assert not AddressGuard([place]).allows_host(host, int(port) + 1)
