"""Features alone: nothing but the items is needed, and a later training finds all of it encoded."""

from pathlib import Path

import polars as pl
import pytest

from flows import extract, job
from pipeline.store import Store
from schemas.errors import UserError
from schemas.extract import ExtractCatalogue, ExtractSummary
from schemas.run import CatalogueParameters
from tests.support import drawn_shop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests of this file are one story and run in their order."""
    folder = tmp_path_factory.mktemp("extract")
    drawn_shop.write(folder / "shop")
    (folder / "shop" / "interactions.csv").rename(folder / "interactions.csv")
    return folder


def run(folder: Path, **changes: object) -> ExtractSummary:
    fields = drawn_shop.parameters(folder / "shop", folder / "store", **changes)
    return extract.run(parameters=ExtractCatalogue(**fields))


def test_features_graph_and_report_are_made_of_the_items_alone(folder: Path) -> None:
    summary = run(folder, interactions="")
    tables = [stage.table for stage in summary.stages]
    assert tables == ["items", "quality", "images", "features/sentence", "similarity"]
    store = Store(folder / "store")
    assert not any(table.startswith(("interactions", "embeddings")) for table in store.tables("shop"))
    items = pl.read_parquet(store.latest("shop", "items").path)
    assert (len(items), items["interactions"].null_count()) == (200, 200)
    assert pl.read_parquet(store.latest("shop", "similarity").path)["item_id"].n_unique() == 200
    assert (summary.encoded, summary.coverage) == ({"sentence": 200}, {"sentence": 1.0})
    assert Path(summary.report).read_text().lstrip().lower().startswith("<!doctype html>")


def test_again_nothing_is_done_whatever_the_parameters_of_interactions(folder: Path) -> None:
    again = run(folder, ingest={"core_k": 9}, interactions="orders.csv")
    assert all(stage.reused for stage in again.stages)
    assert again.encoded == {"sentence": 0}


def test_a_new_item_alone_is_encoded(folder: Path) -> None:
    items = folder / "shop" / "items.jsonl"
    items.write_text(items.read_text() + '\n{"item_id": "new", "title": "A violin with a bow"}')
    assert run(folder).encoded == {"sentence": 1}


def test_a_later_training_encodes_nothing_again(folder: Path) -> None:
    (folder / "interactions.csv").rename(folder / "shop" / "interactions.csv")
    fields = drawn_shop.parameters(folder / "shop", folder / "store", trainer=drawn_shop.QUICK)
    assert job.run(parameters=CatalogueParameters(**fields)).encoded == {"sentence": 0}


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ("", "the file has no rows"),
        ("user_id,item_id\n", "the file has no rows"),
        ("user_id,item_id\nu,i001\n", "outside_5"),
    ],
)
def test_with_nothing_to_train_on_the_main_job_publishes_features_then_says_so(
    folder: Path, rows: str, why: str
) -> None:
    (folder / "shop" / "interactions.csv").write_text(rows)
    store = Store(folder / "store")
    before = store.latest("shop", "interactions")
    for _ in range(2):
        fields = drawn_shop.parameters(folder / "shop", folder / "store", trainer=drawn_shop.QUICK)
        with pytest.raises(UserError, match=f"nothing to train on.*{why}.*similarity graph are published"):
            job.run(parameters=CatalogueParameters(**fields))
        items = pl.read_parquet(store.latest("shop", "items").path)
        assert (len(items), items["interactions"].sum()) == (201, 0)
        features = store.latest("shop", "features/sentence")
        assert store.latest("shop", "items").version in features.lineage["cm3.inputs"]
    assert store.latest("shop", "interactions").version == before.version


def test_weights_to_be_learned_are_refused_before_any_work(folder: Path) -> None:
    with pytest.raises(UserError, match=r"learned needs interactions, which extract does not read"):
        extract.catalogue.fn(raw="shop", similarity={"weighting": "learned"})


def test_training_without_a_named_file_of_interactions_is_refused(folder: Path) -> None:
    fields = drawn_shop.parameters(folder / "shop", folder / "store", interactions="")
    with pytest.raises(UserError, match="cm3 extract catalogue"):
        job.run(parameters=CatalogueParameters(**fields))


def test_a_catalogue_of_which_no_item_has_words_or_a_picture_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "bare.csv").write_text("item_id,image_url\na,\nb,gone.jpg\n")
    with pytest.raises(UserError, match=r"none of the 2 items has a vector of sentence\. 0 have words; pictures: 1 "):
        run(tmp_path, interactions="", items="bare.csv")
    with pytest.raises(UserError):
        Store(tmp_path / "store").latest("shop", "items")
