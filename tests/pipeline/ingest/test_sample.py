"""A sample is the same in every run, and its interactions are among its items."""

import json
from pathlib import Path

import polars as pl

from pipeline import ingest
from pipeline.ingest import sample
from pipeline.store import Store
from schemas.ingest import IngestConfig
from schemas.lineage import TableVersion
from schemas.sources import CatalogueSource
from tests.support import drawn_shop


def ingested(folder: Path, store: Store, limit: int | None) -> dict[str, TableVersion]:
    source = CatalogueSource(raw=str(folder), name="shop")
    run = ingest.run(store=store, dataset="shop", source=source, config=IngestConfig(core_k=1), limit=limit)
    return dict(run.tables)


def ids(version: TableVersion) -> list[str]:
    return pl.read_parquet(version.path)["item_id"].to_list()


def test_a_larger_sample_has_all_of_a_smaller_one_whatever_the_order() -> None:
    everything = [f"i{n}" for n in range(1000)]
    small, large = sample.of_ids(everything, 10), sample.of_ids(reversed(everything), 100)
    assert len(small) == 10
    assert small < large


def test_a_new_item_displaces_at_most_one() -> None:
    everything = [f"i{n}" for n in range(1000)]
    before, after = sample.of_ids(everything, 50), sample.of_ids([*everything, "new"], 50)
    assert len(before - after) <= 1


def test_interactions_are_those_among_the_items_and_what_is_outside_is_counted(tmp_path: Path, store: Store) -> None:
    drawn_shop.write(tmp_path)
    whole, part = ingested(tmp_path, store, None), ingested(tmp_path, store, 50)
    chosen = ids(part["items"])
    assert chosen == [item_id for item_id in ids(whole["items"]) if item_id in set(chosen)], "in the catalogue's order"
    assert len(chosen) == 50
    wanted = pl.read_parquet(whole["interactions"].path).filter(pl.col("item_id").is_in(chosen))
    got = pl.read_parquet(part["interactions"].path)
    columns = ["user_id", "item_id"]
    assert got.select(columns).sort(columns).equals(wanted.select(columns).sort(columns))
    counts = {row["rule"]: row["count"] for row in store.read(part["quality"]).to_pylist()}
    assert counts["item_outside_sample"] == 150
    assert counts["interaction_outside_sample"] > 0
    assert "unknown_item" not in counts


def test_a_sample_as_large_as_the_catalogue_has_its_rows(tmp_path: Path, store: Store) -> None:
    drawn_shop.write(tmp_path)
    assert ids(ingested(tmp_path, store, 10_000)["items"]) == ids(ingested(tmp_path, store, None)["items"])


def test_interactions_of_other_items_alone_leave_a_sample_without_any(tmp_path: Path, store: Store) -> None:
    items = [json.dumps({"item_id": f"i{n}", "title": "words"}) for n in range(9)]
    (tmp_path / "items.jsonl").write_text("\n".join(items))
    outside = next(f"i{n}" for n in range(9) if f"i{n}" not in sample.of_ids([f"i{m}" for m in range(9)], 2))
    (tmp_path / "interactions.csv").write_text(f"user_id,item_id\nu,{outside}\nu,nobody\n")
    assert "interactions" not in ingested(tmp_path, store, 2)
