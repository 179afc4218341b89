"""Names are resolved once, under the guard, and what is connected to is what was checked."""

import asyncio
import socket
from contextlib import AsyncExitStack

import pytest

from pipeline.addresses import AddressGuard, AddressRefused
from pipeline.images.client import Client
from pipeline.images.outcome import PictureError
from pipeline.images.resolver import GuardedResolver
from pipeline.store import Store
from schemas.images import ImagesConfig
from schemas.tables import ImageStatus
from tests.support.chaos_server import ChaosServer
from tests.support.images_stage import image_rows


def resolve(guard: AddressGuard, *addresses: str) -> list[str]:
    kinds = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
    resolver = GuardedResolver(guard, lambda host, port: list(zip(kinds, addresses, strict=True)))
    return [answer["host"] for answer in asyncio.run(resolver.resolve("shop.example", 80))]


def test_of_several_addresses_only_the_public_ones_are_connected_to() -> None:
    assert resolve(AddressGuard(), "10.0.0.1", "8.8.8.8", "::1") == ["8.8.8.8"]
    assert resolve(AddressGuard(["shop.example"]), "10.0.0.1", "8.8.8.8") == ["10.0.0.1", "8.8.8.8"]
    with pytest.raises(AddressRefused):
        resolve(AddressGuard(), "10.0.0.1", "fe80::1%eth0")


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
