"""Every source of the list has its reader, and is in place before it is read."""

from pathlib import Path

import pytest

from pipeline.ingest.sources import in_place, open_source
from pipeline.ingest.sources.base import Source
from pipeline.store import Store
from schemas.sources import SOURCES, CatalogueSource, DemoSource, FileSource

FILE_SOURCES = [source for source in SOURCES.values() if issubclass(source, FileSource)]
GIVEN = {"raw": ".", "name": "shop", "category": "Books"}


@pytest.mark.parametrize("source", FILE_SOURCES, ids=lambda source: source.__name__)
def test_every_kind_has_a_reader_with_what_the_protocol_asks(source: type[FileSource], tmp_path: Path) -> None:
    config = source.model_validate({name: GIVEN[name] for name in GIVEN.keys() & source.model_fields.keys()})
    reader = open_source(config, tmp_path)
    members = {name for name in vars(Source) if not name.startswith("_")}
    assert members <= set(dir(reader))
    assert type(reader).__module__ == f"pipeline.ingest.sources.{config.kind}"


def test_a_source_with_files_is_in_place_as_it_is(tmp_path: Path) -> None:
    config = CatalogueSource(raw=".")
    with in_place(config, Store(tmp_path)) as source:
        assert source is config


def test_the_demo_is_drawn_and_served_until_the_block_ends(tmp_path: Path) -> None:
    config = DemoSource(demo={"items": 40, "users": 20, "picture_size": 64})
    with in_place(config, Store(tmp_path)) as source:
        reader = open_source(source, tmp_path / "raw")
        reader.check()
        assert set(reader.fetch()) == {"items", "interactions"}
    assert source.dataset == config.dataset == "demo"
