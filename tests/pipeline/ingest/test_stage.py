"""A whole ingest: what is published, under which version, and that nothing is done twice."""

import gzip
import json
from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline import images, ingest
from pipeline.demo import catalogue as demo
from pipeline.demo.server import serve
from schemas.demo import DemoConfig
from schemas.errors import UserError
from schemas.images import ImagesConfig
from schemas.ingest import IngestConfig
from schemas.sources import CatalogueSource, ItemColumns, MicroLensSource, MovieLensSource
from tests.conftest import ROOT
from tests.support.chaos_server import jpeg
from tests.support.ingest import SECOND, examples, rows, run, splits

DEMO_COLUMNS = ItemColumns(item_id="id", image_url="image")
DRAWN = DemoConfig(items=40, users=60, picture_size=64)
DAY = "2024-05-06T07:08:09Z"


def test_missing_file_is_refused_by_check_with_what_is_there(store, shop) -> None:
    with pytest.raises(UserError, match=r"raw: the items file.*goods\.csv.*holds interactions\.csv, items\.jsonl"):
        ingest.check(store=store, source=shop(items="goods.csv"))


# The drawn catalogue, over loopback HTTP


def test_drawn_catalogue_over_http_counts_its_planted_defects_and_is_not_read_twice(store, tmp_path) -> None:
    demo.write(tmp_path / "demo", DRAWN)
    with serve(tmp_path / "demo") as url:
        source = CatalogueSource(raw=url, item_columns=DEMO_COLUMNS)
        first, second = run(store, source), run(store, source)
        assert rows(store, first, "items")[0]["image_url"].startswith(f"{url}/images/")
    planted = ("duplicate_item", "item_without_id", "unknown_item", "repeated_interaction", "title_html")
    assert {rule: first.counts[rule] for rule in planted} == dict.fromkeys(planted, 1)
    assert [(v.version, v.reused) for v in second.tables.values()] == [(v.version, True) for v in first.tables.values()]
    assert second.counts == first.counts


def test_interactions_keep_their_version_when_only_the_place_of_pictures_moved(store, tmp_path) -> None:
    demo.write(tmp_path / "demo", DRAWN)
    runs = []
    for _ in range(2):
        with serve(tmp_path / "demo") as url:
            runs.append(run(store, CatalogueSource(raw=url, item_columns=DEMO_COLUMNS)).tables)
    assert runs[0]["items"].version != runs[1]["items"].version
    assert runs[0]["interactions"].version == runs[1]["interactions"].version


# Versions


def test_published_tables_say_where_they_come_from(store, shop) -> None:
    items = run(store, shop()).tables["items"]
    (part,) = Path(items.path).glob("*.parquet")
    metadata = pq.read_schema(part).metadata
    assert json.loads(metadata[b"cm3.inputs"]).keys() == {"raw/items.jsonl", "raw/interactions.csv"}
    assert json.loads(metadata[b"cm3.config"])["core_k"] == 5


def test_versions_follow_bytes_and_parameters_not_places(store, shop) -> None:
    first = run(store, shop()).tables["interactions"]
    assert run(store, shop(), core_k=4).tables["interactions"].version != first.version
    changed = run(store, shop(more_rows=[["u0", "i0", 4, 1]])).tables["interactions"]
    assert changed.version != first.version
    assert run(store, shop()).tables["interactions"].reused


@pytest.mark.parametrize("kind", [CatalogueSource, MovieLensSource, MicroLensSource])
def test_pictures_added_or_changed_after_the_first_ingest_are_noticed(store, tmp_path, kind) -> None:
    folder, pairs = tmp_path / "raw", "u,i,1\nu,j,2\n"
    (folder / "m_covers").mkdir(parents=True)
    files, source = {
        CatalogueSource: (
            {"items.jsonl": '{"item_id": "i"}\n{"item_id": "j"}\n', "interactions.csv": f"user_id,item_id,at\n{pairs}"},
            CatalogueSource(raw=str(folder), image_url="m_covers/{item_id}.jpg"),
        ),
        MovieLensSource: (
            {
                "movies.csv": "movieId,title,genres\ni,A,B\nj,B,C\n",
                "more.csv": "item_id,image\ni,m_covers/i.jpg\n",
                "ratings.csv": "userId,movieId,timestamp,rating\nu,i,1,4\nu,j,2,4\n",
            },
            MovieLensSource(raw=str(folder), joined="more.csv"),
        ),
        MicroLensSource: (
            {"m_titles.csv": "item,title\ni,A\nj,B\n", "m_pairs.csv": f"user,item,timestamp\n{pairs}"},
            MicroLensSource(raw=str(folder), prefix="m"),
        ),
    }[kind]
    for name, text in files.items():
        (folder / name).write_text(text)
    outcomes, config = [], ImagesConfig(file_root=str(folder), give_up_host_after=1)
    for picture in (None, jpeg(1), jpeg(2)):
        if picture is not None:
            (folder / "m_covers" / "i.jpg").write_bytes(picture)
        items = run(store, source, core_k=1).tables["items"]
        fetched = images.run(store=store, items=items, config=config)
        outcomes.append(rows(store, fetched, "images")[0])
    assert [row["status"] for row in outcomes] == ["not_found", "ok", "ok"]
    assert outcomes[0]["url"] == (folder / "m_covers" / "i.jpg").as_uri()
    assert outcomes[1]["sha256"] != outcomes[2]["sha256"]


def test_items_left_out_for_want_of_a_local_picture_come_back_with_it(store, shop) -> None:
    source = shop(image_url="{item_id}.jpg")
    for n in range(5):
        (Path(source.raw) / f"i{n}.jpg").write_bytes(b"x")
    first, again = (run(store, source, require=("image",)) for _ in range(2))
    assert (first.tables["items"].rows, again.tables["items"].reused) == (5, True)
    assert examples(store, first, "item_without_image") == ["i5"]
    (Path(source.raw) / "i5.jpg").write_bytes(b"x")
    assert run(store, source, require=("image",)).tables["items"].rows == 6


# What cannot be used


def test_item_without_id_duplicates_unknown_items_and_repeats_are_counted(store, shop) -> None:
    ingested = run(
        store,
        shop(
            more_items=[{"title": "Nobody's"}, {"item_id": " ", "title": "Blank"}, {"item_id": "i0", "title": "Again"}],
            more_rows=[["u0", "i9", 5, 1], ["u0", "i1", 1, SECOND + 900], ["", "i1", 5, 1], ["u1", "", 5, 1]],
        ),
    )
    counts = ingested.counts
    assert counts["item_without_id"] == 2
    assert examples(store, ingested, "item_without_id") == ["Nobody's", "Blank"]
    assert counts["duplicate_item"] == counts["unknown_item"] == counts["repeated_interaction"] == 1
    assert counts["interaction_without_user"] == counts["interaction_without_item"] == 1
    assert rows(store, ingested, "items")[0]["title"] == "Thing 0"
    interactions = rows(store, ingested, "interactions")
    (latest,) = [row for row in interactions if (row["user_id"], row["item_id"]) == ("u0", "i1")]
    assert latest["rating"] == 1


def test_counts_are_the_sums_of_the_table_quality_by_rule(store, shop) -> None:
    ingested = run(store, shop(more_items=["{broken"], more_rows=[["u0", "i9", 5, 1], ["u0"], ["u0"]]))
    sums: Counter[str] = Counter()
    for row in rows(store, ingested, "quality"):
        sums[row["rule"]] += row["count"]
    assert ingested.counts == sums == {"not_a_record": 3, "unknown_item": 1, "warm_item": 6}


def test_items_are_the_whole_catalogue_in_its_order_each_with_its_published_interactions(store, shop) -> None:
    more = [{"item_id": "i77", "title": "Unsold"}, {"item_id": "i6", "title": "Rare"}]
    ingested = run(store, shop(more_items=more, more_rows=[["u0", "i6", 5, SECOND]]))
    counts = {row["item_id"]: row["interactions"] for row in rows(store, ingested, "items")}
    assert list(counts.items()) == [*((f"i{n}", 6) for n in range(6)), ("i77", 0), ("i6", 0)]
    assert {rule: ingested.counts[rule] for rule in ("warm_item", "rare_item", "unsold_item")} == {
        "warm_item": 6,
        "rare_item": 1,
        "unsold_item": 1,
    }
    assert examples(store, ingested, "rare_item") == ["i6"]
    assert examples(store, ingested, "unsold_item") == ["i77"]
    assert {row["action"] for row in rows(store, ingested, "quality") if row["rule"].endswith("d_item")} == {"kept"}


def test_core_rating_and_split_decide_about_interactions_and_never_about_items(store, shop) -> None:
    source = shop(more_items=[{"item_id": "i6"}], more_rows=[["u0", "i6", 1, SECOND + 99]])
    for config in ({"core_k": 6}, {"min_rating": 5}, {"split": "leave_one_out"}, {"split": "global_time"}):
        ingested = run(store, source, **config)
        assert [row["item_id"] for row in rows(store, ingested, "items")] == [f"i{n}" for n in range(7)]
        chosen = Counter(row["item_id"] for row in rows(store, ingested, "interactions"))
        assert {row["item_id"]: row["interactions"] for row in rows(store, ingested, "items")} == {
            f"i{n}": chosen[f"i{n}"] for n in range(7)
        }


def test_bad_line_is_counted_with_its_number(store, shop) -> None:
    ingested = run(store, shop(more_items=["{broken", {"item_id": "i8"}]))
    assert examples(store, ingested, "not_a_record") == ["line 7"]


def test_mostly_bad_lines_refuse_the_file(store, shop) -> None:
    with pytest.raises(UserError, match=r"items\.jsonl: 20 of the first 26 lines are not records.*line 7"):
        run(store, shop(more_items=["<html>"] * 20))


def test_truncated_gzip_names_the_file(store, shop) -> None:
    source = shop(items="items.jsonl.gz")
    packed = gzip.compress(b'{"item_id": "i0", "title": "x"}\n' * 5000)
    (Path(source.raw) / "items.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match=r"items\.jsonl\.gz is a damaged or truncated gzip"):
        run(store, source)


def test_failed_run_leaves_what_was_published(store, shop) -> None:
    first = run(store, shop()).tables["items"]
    with pytest.raises(UserError):
        run(store, shop(more_items=["<html>"] * 20))
    assert store.latest("x", "items") == first
    assert store.read(store.latest("x", "items")).num_rows == 6


# Splits


def test_published_split_is_used_as_it_is_without_a_core_unless_another_is_asked_for(store, tmp_path) -> None:
    lines = [f"u{user},{item},{split}" for user in range(4) for item, split in enumerate(["train", "train", "valid"])]
    (tmp_path / "interactions.csv").write_text("\n".join(["user_id,item_id,split", *lines]) + "\n")
    (tmp_path / "items.jsonl").write_text("".join(f'{{"item_id": {item}}}\n' for item in range(3)))
    source = CatalogueSource(raw=str(tmp_path))
    assert splits(store, run(store, source)) == {"train": 8, "valid": 4}
    assert splits(store, run(store, source, split="per_user", core_k=3)) == {"train": 4, "valid": 4, "test": 4}


def test_published_split_of_a_source_without_one_is_refused(store, shop) -> None:
    with pytest.raises(UserError, match=r"ingest\.split: published"):
        run(store, shop(), split="published")


# Documentation


def test_documented_example_of_an_own_catalogue_works_as_it_stands(store, tmp_path, monkeypatch) -> None:
    example = yaml.safe_load((ROOT / "docs" / "how-to" / "catalogue.example.yaml").read_text())
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "products.csv").write_text(
        "sku,name,long_text,maker,tags,price_eur,photo,more_photos\n"
        "1,Red mug,A mug.,Alma,Home;Mugs,9.50,https://host/1.jpg,https://host/2.jpg https://host/3.jpg\n"
        "2,Blue mug,,,,,,\n3,,Nameless,,,,,\n"
    )
    orders = [(f"c{c}", str(sku), stars, DAY) for c in range(3) for sku, stars in ((1, 5), (2, 3), (3, 4))]
    columns = ["customer", "sku", "stars", "ordered_at"]
    pl.DataFrame([*orders, ("c4", "1", 2, DAY)], columns, orient="row").write_parquet(shop / "orders.parquet")
    monkeypatch.chdir(tmp_path)
    config = IngestConfig(**example.pop("ingest"))
    ingested = ingest.run(store=store, dataset="", source=CatalogueSource(**example), config=config)
    assert ingested.tables["items"].dataset == "shop"
    assert rows(store, ingested, "items")[0] == {
        "item_id": "1",
        "title": "Red mug",
        "description": "A mug.",
        "brand": "Alma",
        "categories": ["Home", "Mugs"],
        "price": 9.5,
        "image_url": "https://host/1.jpg",
        "text": "Red mug\nAlma\nHome, Mugs\nA mug.",
        "gallery_urls": ["https://host/2.jpg", "https://host/3.jpg"],
        "never_shown": None,
        "interactions": 3,
    }
    assert rows(store, ingested, "interactions")[0]["timestamp"].isoformat() == "2024-05-06T07:08:09+00:00"
    assert ingested.tables["interactions"].rows == 6  # three customers, two named products
    assert ingested.counts["rating_below_threshold"] == 1


def test_a_mapped_column_of_items_that_cannot_be_read_stops_the_run_before_anything_is_published(store, shop) -> None:
    more = [{"item_id": f"m{n}", "stock": ["in stock", "10% off", "call us"][n % 3]} for n in range(9)]
    source = shop(more)
    run(store, source, core_k=1)
    before = store.latest("x", "items").version
    mapped = source.model_copy(update={"item_columns": ItemColumns(price="stock")})
    with pytest.raises(
        UserError, match=r"none of 9 values of stock \(price\) can be read \(in stock, 10% off, call us\)"
    ):
        run(store, mapped, core_k=1)
    assert store.latest("x", "items").version == before
