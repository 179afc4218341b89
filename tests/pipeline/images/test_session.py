"""One answer for one request."""

import asyncio
from contextlib import AsyncExitStack

from pipeline.images.client import Client
from pipeline.images.outcome import Fetched
from tests.support.chaos_server import ChaosServer, jpeg
from tests.support.images_stage import fetch_files, quick_config


def test_an_answer_that_nobody_asked_for_is_not_the_next_ones(server: ChaosServer) -> None:
    urls = [server.url(path) for path in ("/surplus", "/good/1", "/good/2")]
    assert [fetched.body for fetched in fetch_files(quick_config(), *urls)] == [jpeg(7), jpeg(1), jpeg(2)]


def test_nor_if_it_comes_while_the_connection_is_idle(server: ChaosServer) -> None:
    async def fetch(client: Client, path: str) -> bytes | None:
        async with AsyncExitStack() as scope:
            fetched = await client.fetch(server.url(path), None, scope)
        assert isinstance(fetched, Fetched)
        return fetched.body

    async def scenario() -> None:
        async with Client(quick_config()) as client:
            assert await fetch(client, "/late-surplus") == jpeg(7)
            server.hold.set()
            (idle,) = client._session.connector._conns.values()
            while not idle[0][0].should_close:  # until it has arrived
                await asyncio.sleep(0)
            assert await fetch(client, "/good/1") == jpeg(1)

    asyncio.run(scenario())
