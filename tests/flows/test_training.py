"""The training stage, from the store's tables to the store's tables."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from flows import job, training
from pipeline import never_shown
from pipeline.registry import recommend, versions
from pipeline.registry.recommend import Served
from pipeline.serving.follower import consistent
from pipeline.store import Store
from schemas.run import CatalogueParameters, RunSummary
from tests.support import drawn_shop
from tests.support.small_demo import QUICK, small_demo


def test_what_is_never_shown_is_part_of_what_a_training_is_found_by(
    finished: tuple[Store, RunSummary], tmp_path: Path
) -> None:
    shared, summary = finished
    store = Store(shutil.copytree(shared.root, tmp_path / "store"))
    tables = training.inputs({s.table: store.get("demo", s.table, s.version) for s in summary.stages})
    before = training.run(store=store, tables=tables, config=QUICK)
    assert all(version.reused for version in before.tables.values())
    hidden = pl.read_parquet(before.tables["recommendations"].path)["item_id"][0]
    never_shown.write(store, "demo", [hidden])
    after = training.run(store=store, tables=tables, config=QUICK)
    assert hidden not in pl.read_parquet(after.tables["recommendations"].path)["item_id"].to_list()
    never_shown.write(store, "demo", [])
    again = training.run(store=store, tables=tables, config=QUICK)
    assert again.tables == before.tables


@pytest.mark.slow
def test_the_next_run_gives_the_champion_lists_without_what_is_never_shown_and_trains_nothing(tmp_path: Path) -> None:
    store, parameters = Store(tmp_path / "store"), small_demo(tmp_path / "store", features=("sentence",))

    def champions_items() -> set[str]:
        return set(pl.read_parquet(versions.resolve(store, "demo/recommendations@champion").path)["item_id"])

    job.run(parameters=parameters)
    hidden, before = min(champions_items()), versions.resolve(store, "demo/embeddings/items@champion")
    never_shown.write(store, "demo", [hidden])
    summary = job.run(parameters=parameters)
    assert not any("epochs" in stage.counts for stage in summary.stages)
    assert hidden not in champions_items()
    assert versions.resolve(store, "demo/embeddings/items@champion") == before
    assert (
        consistent(Served(store, "demo"))["recommendations"].version == store.latest("demo", "recommendations").version
    )
    never_shown.write(store, "demo", [])
    job.run(parameters=parameters)
    assert hidden in champions_items()


@pytest.mark.slow
def test_what_the_catalogue_marks_stands_in_no_list(tmp_path: Path) -> None:
    drawn_shop.write(tmp_path / "raw")
    lines = (tmp_path / "raw/items.jsonl").read_text().splitlines()
    marked = [json.loads(line) | {"stock": int(n % 3 > 0)} for n, line in enumerate(lines)]
    (tmp_path / "raw/items.jsonl").write_text("\n".join(map(json.dumps, marked)))
    fields = drawn_shop.parameters(tmp_path / "raw", tmp_path / "store", trainer=drawn_shop.QUICK)
    stock = {"item_columns": {"never_shown": "stock"}, "never_shown_values": ("0",)}
    job.run(parameters=CatalogueParameters(**fields, **stock))
    store = Store(tmp_path / "store")
    sold_out = {item["item_id"] for item in marked if not item["stock"]}
    listed = set(pl.read_parquet(versions.resolve(store, "shop/recommendations@champion").path)["item_id"])
    assert listed
    assert not listed & sold_out
    served = Served(store, "shop")
    rows = recommend.for_items(served, ["i000", "i001"], 20)[0]
    assert len(rows)
    assert not set(rows["item_id"].to_pylist()) & sold_out
