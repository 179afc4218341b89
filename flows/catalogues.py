"""From a run's parameters to its catalogue: the data set's name, the opened source, and which hosts it may ask."""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args
from urllib.parse import unquote, urlsplit

from pipeline.addresses import host_and_port
from pipeline.demo import catalogue as demo_catalogue
from pipeline.demo.server import serve
from pipeline.ingest import stage as ingest
from pipeline.store import Store, digest
from schemas.demo import DemoConfig
from schemas.images import ImagesConfig
from schemas.run import DemoParameters, RunParameters
from schemas.sources import CatalogueSource, ItemColumns, SourceConfig

DEMO_COLUMNS = ItemColumns(item_id="id", image_url="image")
DEMO_PORTS = range(20_000, 32_000)
"""Below the range from which systems hand out ports by chance."""


@dataclass(frozen=True)
class Opened:
    """A catalogue that is there. `images` is the run's download configuration with what this source may reach."""

    source: SourceConfig
    images: ImagesConfig


def dataset(parameters: RunParameters) -> str:
    """The data set's name in the store."""
    return "demo" if isinstance(parameters, DemoParameters) else _source_of(parameters).dataset


def opened(parameters: RunParameters, store: Store) -> AbstractContextManager[Opened]:
    """The catalogue that `parameters` name, checked before any work; what serves it ends with the block.

    Raises:
        UserError: a file is missing or a place cannot be reached; names the parameter.
    """
    if isinstance(parameters, DemoParameters):
        return _drawn(parameters, store)
    return nullcontext(_open(_source_of(parameters), parameters, store))


def _open(source: SourceConfig, parameters: RunParameters, store: Store) -> Opened:
    ingest.check(store=store, source=source)
    return Opened(source, reachable(parameters.images, source.raw, source.image_url))


def _source_of(parameters: RunParameters) -> SourceConfig:
    """The source's own part of a run's flat parameters."""
    for kind in get_args(get_args(SourceConfig)[0]):
        if isinstance(parameters, kind):
            return cast(SourceConfig, kind(**{name: getattr(parameters, name) for name in kind.model_fields}))
    raise TypeError(f"{type(parameters).__name__} names no source")


def reachable(images: ImagesConfig, raw: str, image_url: str) -> ImagesConfig:
    """Allow the hosts with their ports, or the folder, that the run itself names; what a row names stays guarded."""
    hosts = [place for place in map(host_and_port, (raw, image_url)) if place is not None]
    folder = None
    if raw and "://" not in raw:
        folder = str(Path(raw).expanduser().absolute())
    elif raw.startswith("file://"):
        folder = unquote(urlsplit(raw).path)
    update = {"allowed_hosts": (*images.allowed_hosts, *hosts), "file_root": images.file_root or folder}
    return images.model_copy(update=update)


@contextmanager
def _drawn(parameters: DemoParameters, store: Store) -> Iterator[Opened]:
    """Draw the demo's catalogue once, and serve it over loopback HTTP like anyone's.

    Each configuration has addresses of its own: pictures are known by their address, and must not be another drawing's.
    """
    folder = draw(parameters.demo, store)
    with serve(folder.parent, demo_port(store)) as base:
        raw = f"{base}/{folder.name}"
        yield _open(CatalogueSource(raw=raw, name="demo", item_columns=DEMO_COLUMNS), parameters, store)


def demo_port(store: Store) -> int:
    """A store's own port, so that the demo's picture URLs are the same in each of its runs and no two stores meet."""
    return DEMO_PORTS[int(digest(store.uri), 16) % len(DEMO_PORTS)]


def draw(config: DemoConfig, store: Store) -> Path:
    """The folder of the drawn catalogue; drawn beside and renamed, so that a killed run leaves none half-drawn."""
    folder = store.scratch("demo") / digest(config.model_dump_json())
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        demo_catalogue.write(unfinished, config)
        unfinished.replace(folder)
    return folder
