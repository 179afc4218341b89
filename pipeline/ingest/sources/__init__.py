"""Sources of every kind, each a module of that name: its reader, behind `base.Source`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

from pipeline.ingest.sources.base import Source
from pipeline.store import Store
from schemas.sources import FileSource, SourceConfig


def open_source(config: FileSource, cache: Path) -> Source:
    """The reader of a source: of `MovieLensSource`, whose kind is `movielens`, class `MovieLens` of module `movielens`.

    Args:
        cache: folder of its downloads.
    """
    reader: Callable[[FileSource, Path], Source]
    reader = getattr(_module(config), type(config).__name__.removesuffix("Source"))
    return reader(config, cache)


@contextmanager
def in_place(config: SourceConfig, store: Store) -> Iterator[FileSource]:
    """A source whose files can be read until the block ends: `config` itself, or, if its files must be made first, what
    `served` in its module yields."""
    if isinstance(config, FileSource):
        yield config
    else:
        with _module(config).served(config, store) as source:
            yield source


def _module(config: SourceConfig) -> ModuleType:
    return import_module(f"{__name__}.{config.kind}")
