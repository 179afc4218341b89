"""The demo: a catalogue that is drawn once per store and served over loopback HTTP, then read like anyone's."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.demo import catalogue
from pipeline.demo.server import serve
from pipeline.store import Store, digest
from schemas.demo import DemoConfig
from schemas.sources import CatalogueSource, DemoSource, ItemColumns

COLUMNS = ItemColumns(item_id="id", image_url="image")
PORTS = range(20_000, 32_000)
"""Below the range from which systems assign ports."""


@contextmanager
def served(config: DemoSource, store: Store) -> Iterator[CatalogueSource]:
    """The drawn catalogue, served until the block ends.

    Each configuration has its own addresses, because a picture is identified by its address.
    """
    folder = drawn(config.demo, store)
    with serve(folder.parent, port(store)) as base:
        yield CatalogueSource(raw=f"{base}/{folder.name}", name=config.dataset, item_columns=COLUMNS)


def port(store: Store) -> int:
    """A store's own port: the addresses of its pictures are the same in every run, and differ from other stores'."""
    return PORTS[int(digest(store.uri), 16) % len(PORTS)]


def drawn(config: DemoConfig, store: Store) -> Path:
    """The folder of the drawn catalogue. It is renamed once complete, so a killed run leaves no unfinished one."""
    folder = store.scratch("demo") / digest(config.model_dump_json())
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        catalogue.write(unfinished, config)
        unfinished.replace(folder)
    return folder
