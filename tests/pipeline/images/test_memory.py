"""How many large bodies there are at once, from the first byte too many until they are decoded."""

import asyncio
import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline.images import client as client_module
from pipeline.images.client import SMALL_BODY, Client
from pipeline.images.downloader import Crew, download
from pipeline.images.outcome import Fetched, Outcome
from schemas.images import ImagesConfig
from schemas.tables import ImageStatus
from tests.support.chaos_server import ChaosServer

LARGE = SMALL_BODY + 1_000_000
PLACES = 2


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChaosServer]:
    """Bodies that are large and no pictures, and a place for two of them."""
    monkeypatch.setattr(client_module, "LARGE_BODIES", PLACES)
    pictures = {f"/good/{n}": n.to_bytes(2) + bytes(LARGE - 2) for n in range(16)}
    with ChaosServer(pictures=pictures) as server:
        yield server


def outcomes(urls: list[str], **changes: Any) -> list[Outcome]:
    config = ImagesConfig(allowed_hosts=("127.0.0.1",), **changes)
    found = download(dict.fromkeys(urls), config=config, has_picture=lambda _: False)
    return [outcome for part in found for outcome in part]


@pytest.mark.parametrize("files", [False, True])
def test_no_more_large_bodies_than_places_wait_to_be_decoded(
    server: ChaosServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: bool
) -> None:
    now, most, wanted = 0, 0, 0
    all_came = asyncio.Event()
    admit, look = Client._admit, Crew._look

    async def noted(client: Client, needed: AsyncExitStack, deadline: asyncio.Timeout) -> None:
        nonlocal wanted
        wanted += 1
        if wanted == len(server.pictures):
            all_came.set()
        await admit(client, needed, deadline)

    async def counted(crew: Crew, url: str, fetched: Fetched) -> Outcome:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await all_came.wait()
        for _ in range(2000):  # turns of the loop, in which others would arrive if they were let
            await asyncio.sleep(0)
        try:
            return await look(crew, url, fetched)
        finally:
            now -= 1

    monkeypatch.setattr(Client, "_admit", noted)
    monkeypatch.setattr(Crew, "_look", counted)
    urls = [server.url(path) for path in server.pictures]
    if files:
        for path, body in server.pictures.items():
            (tmp_path / path.rsplit("/", 1)[1]).write_bytes(body)
        urls = [path.as_uri() for path in tmp_path.iterdir()]
    assert len({outcome.sha256 for outcome in outcomes(urls, file_root=str(tmp_path))}) == len(urls)
    assert most <= PLACES


class Needed(AsyncExitStack):
    """Says when somebody is about to wait for a place."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted = asyncio.Event()

    async def enter_async_context(self, cm: AbstractAsyncContextManager[Any, Any]) -> Any:
        self.wanted.set()
        return await super().enter_async_context(cm)


def test_the_wait_for_a_place_is_not_counted_against_a_picture(
    server: ChaosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        config = ImagesConfig(allowed_hosts=("127.0.0.1",), http2=True)  # httpcore's own clocks stand while it waits
        async with Client(config) as client, Needed() as needed:
            async with AsyncExitStack() as others:
                for n in range(PLACES):
                    await client.fetch(server.url(f"/good/{n}"), None, others)
                waiting = asyncio.create_task(client.fetch(server.url("/good/9"), None, needed))
                await needed.wanted.wait()
                time, late = loop.time, 2 * config.total_timeout
                monkeypatch.setattr(loop, "time", lambda: time() + late)
                for _ in range(10):
                    await asyncio.sleep(0)
            found = await waiting
            assert isinstance(found, Fetched)
            assert found.body == server.pictures["/good/9"]

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/good", "/endless"])
def test_bodies_that_are_refused_are_gone_at_once(server: ChaosServer, path: str) -> None:
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        refused = outcomes([server.url(f"{path}/{n}") for n in range(16)], max_bytes=LARGE)
        assert {outcome.status for outcome in refused} <= {ImageStatus.NOT_AN_IMAGE, ImageStatus.TOO_LARGE}
        assert tracemalloc.get_traced_memory()[0] < LARGE
    finally:
        tracemalloc.stop()
        gc.enable()
