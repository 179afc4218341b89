"""The images stage on the URLs of a test: quick settings, an `items` table of URLs, and the rows that come out."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import zip_longest
from typing import Any

import pyarrow as pa

from pipeline import images
from pipeline.images.client import Client
from pipeline.images.outcome import Fetched, Redirect
from pipeline.store import Store
from schemas.images import ImagesConfig
from schemas.lineage import TableVersion
from schemas.tables import ITEMS
from tests.support.published import publish

QUICK: dict[str, Any] = {
    "allowed_hosts": ("127.0.0.1",),
    "backoff": 0.0,
    "connect_timeout": 60.0,
    "read_timeout": 60.0,
    "total_timeout": 300.0,
    "max_bytes": 200_000,
    "max_pixels": 10_000_000,
    "attempts": 3,
}


def quick_config(**changes: Any) -> ImagesConfig:
    """No pauses and small limits, but timeouts that no busy machine reaches; a server on loopback is allowed."""
    return ImagesConfig(**(QUICK | changes))


def publish_urls(store: Store, urls: Sequence[str | None], galleries: Sequence[Sequence[str]] = ()) -> TableVersion:
    """An `items` table: one item per URL of a main picture, named `item 0` and so on, with its gallery."""
    rows = [
        {"item_id": f"item {n}", "categories": [], "image_url": url, "gallery_urls": gallery}
        for n, (url, gallery) in enumerate(zip_longest(urls, galleries))
    ]
    return publish(store, "items", pa.Table.from_pylist(rows, schema=ITEMS))


def run_images(store: Store, items: TableVersion, **changes: Any) -> TableVersion:
    """The published `images` table."""
    return images.run(store=store, items=items, config=quick_config(**changes)).tables["images"]


def image_rows(store: Store, urls: Sequence[str | None], **changes: Any) -> list[dict[str, Any]]:
    """The rows of the `images` table of these URLs, in their order."""
    return store.read(run_images(store, publish_urls(store, urls), **changes)).to_pylist()


def fetch_files(config: ImagesConfig, *urls: str) -> list[Fetched]:
    """What one client fetches, through all redirects: the first URL alone, then the others at once."""

    async def run() -> list[Fetched]:
        async with Client(config) as client:
            first = await _follow(client, urls[0])
            return [first, *await asyncio.gather(*(_follow(client, url) for url in urls[1:]))]

    return asyncio.run(run())


async def _follow(client: Client, url: str) -> Fetched:
    async with AsyncExitStack() as scope:
        result = await client.fetch(url, None, scope)
        while isinstance(result, Redirect):
            result = await client.fetch(url, None, scope, result)
    return result
