"""The guard: which addresses a catalogue's URL may reach."""

import asyncio
import socket
from contextlib import AsyncExitStack
from ipaddress import ip_address

import pytest

from pipeline.images.addresses import AddressGuard, GuardedResolver, is_public
from pipeline.images.client import Client
from pipeline.images.outcome import PictureError
from pipeline.store import Store
from schemas.images import ImagesConfig
from schemas.tables import ImageStatus
from tests.support.chaos_server import ChaosServer
from tests.support.images_stage import image_rows

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


def resolve(guard: AddressGuard, *addresses: str) -> list[str]:
    kinds = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
    resolver = GuardedResolver(guard, lambda host, port: list(zip(kinds, addresses, strict=True)))
    return [answer["host"] for answer in asyncio.run(resolver.resolve("shop.example", 80))]


def test_of_several_addresses_only_the_public_ones_are_connected_to() -> None:
    assert resolve(AddressGuard(), "10.0.0.1", "8.8.8.8", "::1") == ["8.8.8.8"]
    assert resolve(AddressGuard(["shop.example"]), "10.0.0.1", "8.8.8.8") == ["10.0.0.1", "8.8.8.8"]
    with pytest.raises(PictureError) as caught:
        resolve(AddressGuard(), "10.0.0.1", "fe80::1%eth0")
    assert caught.value.status is ImageStatus.BLOCKED_ADDRESS


def test_a_name_that_changes_its_answer_is_judged_by_the_address_connected_to() -> None:
    """DNS rebinding: public when checked, loopback when connected. The client resolves once and checks the result."""
    answers = iter(["8.8.8.8", "127.0.0.1", "127.0.0.1"])
    asked = []

    def rebinding(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
        asked.append(host)
        return [(socket.AF_INET, next(answers))]

    async def fetch(port: int) -> ImageStatus:
        config = ImagesConfig(connect_timeout=0.2, read_timeout=0.2, total_timeout=0.2)
        async with Client(config, rebinding) as client:
            with pytest.raises(PictureError) as caught:
                await client.fetch(f"http://rebind.example:{port}/good/1", None, AsyncExitStack())
            return caught.value.status

    with ChaosServer() as server:
        assert asyncio.run(fetch(server.port)) in {ImageStatus.TIMEOUT, ImageStatus.CONNECT_ERROR}
        assert server.counts.total() == 0
    assert len(asked) == 1


def test_what_is_no_public_address_is_never_connected_to(store: Store, server: ChaosServer) -> None:
    hosts = ("localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0.0.0.0", "[::ffff:7f00:1]")
    rows = image_rows(store, [server.url("/good/1", host=host) for host in hosts], allowed_hosts=())
    assert {row["status"] for row in rows} == {"blocked_address"}
    assert server.counts.total() == 0
    (row,) = image_rows(store, [server.url("/good/1")], allowed_hosts=(f"127.0.0.1:{server.port + 1}",))
    assert row["status"] == "blocked_address"
