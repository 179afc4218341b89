"""Many URLs at once: limits for each host, hosts that are given up, and how many large bodies are in memory."""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline.images import client as client_module
from pipeline.images.client import SMALL_BODY, Client
from pipeline.images.downloader import Downloader, download
from pipeline.images.outcome import Fetched, Outcome
from pipeline.store import Store
from schemas.images import ImagesConfig
from schemas.tables import ImageStatus
from tests.support.chaos_server import BEHAVIOURS, ChaosServer, Request, answer, good, jpeg, redirect
from tests.support.images_stage import image_rows

LARGE = SMALL_BODY + 1_000_000
PLACES = 2


def test_a_host_that_never_answers_is_given_up_and_others_go_on(store: Store, server: ChaosServer) -> None:
    urls = [f"http://127.0.0.1:1/{n}" for n in range(50)] + [server.url("/good/1")]
    rows = image_rows(store, urls, give_up_host_after=3, per_host=1, attempts=1)
    assert {row["status"] for row in rows[:50]} == {"connect_error"}
    assert sum("given up" in row["error"] for row in rows[:50]) == 47
    assert rows[50]["status"] == "ok"


def test_a_host_that_asks_for_a_longer_rest_than_the_run_waits_is_left_for_a_later_run(
    store: Store, server: ChaosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [server.url(f"/429-for-long/{n}") for n in range(30)]
    rows = image_rows(store, urls, per_host=1, give_up_host_after=3)
    assert {row["status"] for row in rows} == {"rate_limited"}
    assert server.counts.total() == 3
    monkeypatch.setitem(BEHAVIOURS, "/429-for-long", good)
    assert {row["status"] for row in image_rows(store, urls)} == {"ok"}


def test_a_host_rests_also_when_the_picture_it_refused_is_not_asked_for_again(
    store: Store, server: ChaosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    async def busy_at_first(server: ChaosServer, request: Request) -> None:
        asked.append(time.monotonic())
        if len(asked) == 1:
            await answer(request, "429 Too Many Requests", Retry_After="1")
        else:
            await good(server, request)

    monkeypatch.setitem(BEHAVIOURS, "/busy-at-first", busy_at_first)
    rows = image_rows(store, [server.url(f"/busy-at-first/{n}") for n in range(2)], per_host=1, attempts=1)
    assert [row["status"] for row in rows] == ["rate_limited", "ok"]
    assert asked[1] - asked[0] >= 0.9


def test_as_many_requests_are_in_flight_as_allowed_and_no_more(store: Store, server: ChaosServer) -> None:
    rows = image_rows(store, [server.url(f"/rendezvous/{n}") for n in range(12)], per_host=3, placeholder_share=None)
    assert {row["status"] for row in rows} == {"ok"}
    assert server.most_at_once == 3


def test_limits_of_a_host_hold_for_what_others_redirect_to_it(
    store: Store, server: ChaosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BEHAVIOURS, "/away", redirect(server.url("/rendezvous/1")))
    with ChaosServer() as first, ChaosServer() as second, ChaosServer() as third, ChaosServer() as fourth:
        urls = [each.url(f"/away/{n}") for each in (first, second, third, fourth) for n in range(3)]
        rows = image_rows(store, urls, per_host=3, placeholder_share=None)
    assert {row["status"] for row in rows} == {"ok"}
    assert server.most_at_once == 3


def test_a_dead_host_that_another_redirects_to_is_given_up_in_its_place(
    store: Store, server: ChaosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BEHAVIOURS, "/dead", redirect("http://127.0.0.1:1/x.jpg"))
    urls = [*(server.url(f"/dead/{n}") for n in range(5)), *(server.url(f"/good/{n}") for n in range(4))]
    rows = image_rows(store, urls, give_up_host_after=2, per_host=1, attempts=1)
    assert [row["status"] for row in rows] == ["connect_error"] * 5 + ["ok"] * 4
    assert ["127.0.0.1:1 given up" in row["error"] for row in rows[:5]] == [False] * 2 + [True] * 3


def test_a_picture_cut_off_without_its_length_announced_is_asked_for_again(
    store: Store, server: ChaosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut_at_first(_: ChaosServer, request: Request) -> None:
        picture = jpeg(1, (400, 400))
        arriving = picture[:-700] if request.nth == 1 else picture
        request.writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + arriving)
        request.writer.close()

    monkeypatch.setitem(BEHAVIOURS, "/cut-at-first", cut_at_first)
    statuses = [image_rows(store, [server.url("/cut-at-first")])[0]["status"] for _ in range(2)]
    assert statuses == ["connect_error", "ok"]


def test_runs_from_inside_an_event_loop(store: Store, server: ChaosServer) -> None:
    async def flow() -> list[dict[str, Any]]:
        return image_rows(store, [server.url("/good/1")])

    assert asyncio.run(flow())[0]["status"] == "ok"


@pytest.fixture
def large_bodies(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChaosServer]:
    """Serves large bodies that are no pictures; the client has a place for two of them."""
    monkeypatch.setattr(client_module, "LARGE_BODIES", PLACES)
    pictures = {f"/good/{n}": n.to_bytes(2) + bytes(LARGE - 2) for n in range(16)}
    with ChaosServer(pictures=pictures) as server:
        yield server


def outcomes(urls: list[str], **changes: Any) -> list[Outcome]:
    config = ImagesConfig(allowed_hosts=("127.0.0.1",), **changes)
    parts = download(dict.fromkeys(urls), config=config, has_picture=lambda _: False)
    return [outcome for part in parts for outcome in part]


@pytest.mark.parametrize("files", [False, True])
def test_no_more_large_bodies_than_places_wait_to_be_decoded(
    large_bodies: ChaosServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: bool
) -> None:
    now, most, wanted = 0, 0, 0
    all_came = asyncio.Event()
    admit, outcome = Client._admit, Downloader._outcome

    async def noted(client: Client, scope: AsyncExitStack, deadline: asyncio.Timeout) -> None:
        nonlocal wanted
        wanted += 1
        if wanted == len(large_bodies.pictures):
            all_came.set()
        await admit(client, scope, deadline)

    async def counted(downloader: Downloader, url: str, fetched: Fetched) -> Outcome:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await all_came.wait()
        for _ in range(2000):  # turns of the loop, in which others would arrive if they were let
            await asyncio.sleep(0)
        try:
            return await outcome(downloader, url, fetched)
        finally:
            now -= 1

    monkeypatch.setattr(Client, "_admit", noted)
    monkeypatch.setattr(Downloader, "_outcome", counted)
    urls = [large_bodies.url(path) for path in large_bodies.pictures]
    if files:
        for path, body in large_bodies.pictures.items():
            (tmp_path / path.rsplit("/", 1)[1]).write_bytes(body)
        urls = [path.as_uri() for path in tmp_path.iterdir()]
    assert len({outcome.sha256 for outcome in outcomes(urls, file_root=str(tmp_path))}) == len(urls)
    assert most <= PLACES


@pytest.mark.parametrize("path", ["/good", "/endless"])
def test_bodies_that_are_refused_are_gone_at_once(large_bodies: ChaosServer, path: str) -> None:
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        refused = outcomes([large_bodies.url(f"{path}/{n}") for n in range(16)], max_bytes=LARGE)
        assert {outcome.status for outcome in refused} <= {ImageStatus.NOT_AN_IMAGE, ImageStatus.TOO_LARGE}
        assert tracemalloc.get_traced_memory()[0] < LARGE
    finally:
        tracemalloc.stop()
        gc.enable()
