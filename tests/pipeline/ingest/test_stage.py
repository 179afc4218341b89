"""A whole ingest: real files with their exact counts, every kind of bad input, and nothing done twice."""

import csv
import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.demo import catalogue as demo
from pipeline.demo.server import serve
from pipeline.images import stage as images
from pipeline.ingest import stage as ingest
from pipeline.ingest.stage import Ingested
from pipeline.store import Store
from schemas.demo import DemoConfig
from schemas.errors import UserError
from schemas.images import ImagesConfig
from schemas.ingest import IngestConfig
from schemas.sources import (
    AmazonSource,
    CatalogueSource,
    InteractionColumns,
    ItemColumns,
    MicroLensSource,
    MMRecSource,
    MovieLensSource,
)
from tests.support.chaos_server import jpeg

DEMO_COLUMNS = ItemColumns(item_id="id", image_url="image")
DRAWN = DemoConfig(items=40, users=60, picture_size=64)
SECOND = 1_400_000_000
DAY = "2024-05-06T07:08:09Z"


def counts(store: Store, ingested: Ingested) -> dict[str, int]:
    """Rule → rows, over all files."""
    found: Counter[str] = Counter()
    for row in store.read(ingested.quality).to_pylist():
        found[row["rule"]] += row["count"]
    return dict(found)


def examples(store: Store, ingested: Ingested, rule: str) -> list[str]:
    return next(row["examples"] for row in store.read(ingested.quality).to_pylist() if row["rule"] == rule)


def splits(store: Store, ingested: Ingested) -> Counter[str]:
    return Counter(store.read(ingested.interactions)["split"].to_pylist())


def users(store: Store, ingested: Ingested) -> int:
    return len(set(store.read(ingested.interactions)["user_id"].to_pylist()))


def run(store: Store, source: Any, dataset: str = "x", **config: Any) -> Ingested:
    return ingest.run(store=store, dataset=dataset, source=source, config=IngestConfig(**config))


Shop = Callable[..., CatalogueSource]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """`shop(items, rows)` writes a small catalogue: 6 users who each chose 6 items, and what is added."""

    def write(
        more_items: list[Any] = [], more_rows: list[list[Any]] = [], *, header: list[str] | None = None,  # noqa: B006
        **source: Any,
    ) -> CatalogueSource:  # fmt: skip
        folder = tmp_path / "shop"
        folder.mkdir(exist_ok=True)
        items = [{"item_id": f"i{n}", "title": f"Thing {n}", "categories": ["A"]} for n in range(6)]
        lines = [line if isinstance(line, str) else json.dumps(line) for line in (*items, *more_items)]
        (folder / "items.jsonl").write_text("\n".join(lines) + "\n")
        rows = [[f"u{u}", f"i{i}", 5, SECOND + 10 * u + i] for u in range(6) for i in range(6)]
        with (folder / "interactions.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header or ["user_id", "item_id", "rating", "timestamp"], *rows, *more_rows])
        return CatalogueSource(raw=str(folder), **source)

    return write


# Real files


@pytest.mark.parametrize(
    ("category", "reviews", "metadata", "expected", "further"),
    [
        ("Gift_Cards", 2972, 1547, {"repeated_interaction": 7, "title_entities": 10}, (66, 241)),
        (
            "Magazine_Subscriptions", 2375, 3385,
            {"repeated_interaction": 69, "duplicate_item": 1065, "title_html": 148}, (119, 562),
        ),
    ],
)  # fmt: skip
def test_amazon_2018_is_read_with_its_exact_counts(
    store, shared_data, category, reviews, metadata, expected, further
) -> None:
    found = run(store, AmazonSource(category=category, raw=str(shared_data / "amazon-2018")), core_k=1)
    tally = counts(store, found)
    for rule, count in expected.items():
        assert tally[rule] == count
    assert found.interactions.rows + tally["repeated_interaction"] + tally.get("unknown_item", 0) == reviews
    assert found.items.rows + tally["item_without_interaction"] + tally.get("duplicate_item", 0) == metadata
    urls = [url for url in store.read(found.items)["image_url"].to_pylist() if url]
    assert len(urls) > 100
    galleries = [gallery for gallery in store.read(found.items)["gallery_urls"].to_pylist() if gallery]
    assert (len(galleries), sum(map(len, galleries))) == further
    urls += [url for gallery in galleries for url in gallery]
    assert not any("_SX38_" in url or "_SY50_" in url for url in urls)


def test_amazon_2018_with_photos_and_titles_has_the_known_five_core(store, shared_data) -> None:
    source = AmazonSource(category="gift cards", raw=str(shared_data / "amazon-2018"), image_url="images/{item_id}.jpg")
    everything = run(store, source, core_k=1, require=("title", "image"))
    assert (everything.items.rows, users(store, everything)) == (115, 458)
    found = run(store, source, require=("title", "image"))
    assert (found.items.rows, users(store, found), found.interactions.rows) == (100, 290, 1810)
    assert counts(store, found)["interaction_outside_5_core"] == 2477 - 1810
    assert all(Path(url.removeprefix("file://")).is_file() for url in store.read(found.items)["image_url"].to_pylist())


def test_amazon_without_metadata_is_refused_before_any_work(store, shared_data) -> None:
    source = AmazonSource(category="AMAZON_FASHION", raw=str(shared_data / "amazon-2018"))
    with pytest.raises(UserError, match=r"meta_AMAZON_FASHION\.json\.gz.* holds .*AMAZON_FASHION_5\.json\.gz"):
        ingest.check(store=store, source=source)


def test_movielens_is_read_with_its_exact_counts(store, shared_data) -> None:
    source = MovieLensSource(raw=str(shared_data / "movielens-100k"))
    everything = run(store, source, core_k=1)
    assert (everything.items.rows, users(store, everything), everything.interactions.rows) == (1657, 943, 99_780)
    found = run(store, source)
    assert (found.items.rows, users(store, found), found.interactions.rows) == (1343, 943, 99_108)


def test_mmrec_split_is_used_as_published(store, shared_data) -> None:
    found = run(store, MMRecSource(raw=str(shared_data / "mmrec"), name="clothing"))
    assert (found.items.rows, users(store, found), found.interactions.rows) == (23_033, 39_387, 278_677)
    assert splits(store, found) == {"train": 197_338, "valid": 41_189, "test": 40_150}


# The drawn catalogue, over loopback HTTP


def test_drawn_catalogue_over_http_counts_its_planted_defects_and_is_not_read_twice(store, tmp_path) -> None:
    demo.write(tmp_path / "demo", DRAWN)
    with serve(tmp_path / "demo") as url:
        source = CatalogueSource(raw=url, item_columns=DEMO_COLUMNS)
        first, second = run(store, source), run(store, source)
        assert store.read(first.items)["image_url"][0].as_py().startswith(f"{url}/images/")
    tally = counts(store, first)
    planted = ("duplicate_item", "item_without_id", "unknown_item", "repeated_interaction", "title_html")
    assert {rule: tally[rule] for rule in planted} == dict.fromkeys(planted, 1)
    tables = [(v.version, v.reused) for v in (second.items, second.interactions, second.quality)]
    assert tables == [(v.version, True) for v in (first.items, first.interactions, first.quality)]


def test_interactions_keep_their_version_when_only_the_place_of_pictures_moved(store, tmp_path) -> None:
    demo.write(tmp_path / "demo", DRAWN)
    found = []
    for _ in range(2):
        with serve(tmp_path / "demo") as url:
            found.append(run(store, CatalogueSource(raw=url, item_columns=DEMO_COLUMNS)))
    assert found[0].items.version != found[1].items.version
    assert found[0].interactions.version == found[1].interactions.version


# Rules


def test_published_tables_say_where_they_come_from(store, shop) -> None:
    found = run(store, shop())
    (part,) = Path(found.items.path).glob("*.parquet")
    metadata = pq.read_schema(part).metadata
    assert json.loads(metadata[b"cm3.inputs"]).keys() == {"raw/items.jsonl", "raw/interactions.csv"}
    assert json.loads(metadata[b"cm3.config"])["core_k"] == 5


def test_versions_follow_bytes_and_parameters_not_places(store, shop, tmp_path) -> None:
    first = run(store, shop())
    assert run(store, shop(), core_k=4).interactions.version != first.interactions.version
    assert run(store, shop(more_rows=[["u0", "i0", 4, 1]])).interactions.version != first.interactions.version
    assert run(store, shop()).interactions.reused


def test_item_without_id_duplicates_unknown_items_and_repeats_are_counted(store, shop) -> None:
    found = run(
        store,
        shop(
            more_items=[{"title": "Nobody's"}, {"item_id": " ", "title": "Blank"}, {"item_id": "i0", "title": "Again"}],
            more_rows=[["u0", "i9", 5, 1], ["u0", "i1", 1, SECOND + 900], ["", "i1", 5, 1], ["u1", "", 5, 1]],
        ),
    )
    tally = counts(store, found)
    assert tally["item_without_id"] == 2
    assert examples(store, found, "item_without_id") == ["Nobody's", "Blank"]
    assert tally["duplicate_item"] == tally["unknown_item"] == tally["repeated_interaction"] == 1
    assert tally["interaction_without_user"] == tally["interaction_without_item"] == 1
    assert store.read(found.items)["title"][0].as_py() == "Thing 0"
    (kept,) = [
        row for row in store.read(found.interactions).to_pylist() if (row["user_id"], row["item_id"]) == ("u0", "i1")
    ]
    assert kept["rating"] == 1  # the latest


def test_items_keep_the_catalogues_order_and_only_those_with_interactions(store, shop) -> None:
    found = run(store, shop(more_items=[{"item_id": "i77", "title": "Unsold"}]))
    assert store.read(found.items)["item_id"].to_pylist() == [f"i{n}" for n in range(6)]
    assert examples(store, found, "item_without_interaction") == ["i77"]


def test_bad_line_is_counted_with_its_number(store, shop) -> None:
    found = run(store, shop(more_items=["{broken", {"item_id": "i8"}]))
    assert examples(store, found, "not_a_record") == ["line 7"]


def test_mostly_bad_lines_refuse_the_file(store, shop) -> None:
    with pytest.raises(UserError, match=r"items\.jsonl: 20 of the first 26 lines are not records.*line 7"):
        run(store, shop(more_items=["<html>"] * 20))


def test_missing_column_names_file_expected_and_found(store, shop) -> None:
    source = shop(header=["user", "item_id", "rating", "timestamp"])
    with pytest.raises(
        UserError, match=r"interactions\.csv: column user_id is missing; expected .*; found user, item_id"
    ):
        run(store, source)
    found = run(store, source.model_copy(update={"interaction_columns": InteractionColumns(user_id="user")}))
    assert found.interactions.rows == 36


def test_named_column_that_is_absent_is_refused(store, shop) -> None:
    with pytest.raises(UserError, match=r"items\.jsonl: column name is missing.*item_columns"):
        run(store, shop(item_columns=ItemColumns(title="name")))


def test_rows_outside_the_core_and_held_out_of_untrained_users_have_examples(store, shop) -> None:
    rows = [[f"v{n}", "i0", 5, SECOND + 900 + n] for n in range(5)]  # after all that is trained on
    found = run(store, shop(more_rows=rows))
    assert examples(store, found, "interaction_outside_5_core") == ["v0 → i0", "v1 → i0", "v2 → i0"]
    found = run(store, shop(more_rows=rows), core_k=1, split="global_time")
    assert examples(store, found, "held_out_of_untrained_user") == ["v0 → i0", "v1 → i0", "v2 → i0"]


def test_nothing_left_says_how_much_there_was_and_what_to_change(store, shop) -> None:
    with pytest.raises(UserError) as refused:
        run(store, shop(), core_k=7, min_rating=2.0)
    message = str(refused.value)
    assert "36 interactions were read, 36 remained before the 7-core (6 users, 6 items), 0 after it" in message
    assert "Lower core_k (now 7) or min_rating (now 2)" in message
    with pytest.raises(UserError, match="36 interactions were read, 0 remained"):
        run(store, shop(), min_rating=6.0)


def test_files_that_do_not_belong_together_are_refused(store, shop) -> None:
    source = shop(item_columns=ItemColumns(item_id="title"))
    with pytest.raises(UserError, match=r"None of the 36 interactions .* is with an item of items\.jsonl"):
        run(store, source)


def test_failed_run_leaves_what_was_published(store, shop) -> None:
    first = run(store, shop())
    with pytest.raises(UserError):
        run(store, shop(more_items=["<html>"] * 20))
    assert store.latest("x", "items") == first.items
    assert store.read(store.latest("x", "items")).num_rows == 6


def test_truncated_gzip_names_the_file(store, shop) -> None:
    source = shop(items="items.jsonl.gz")
    packed = gzip.compress(b'{"item_id": "i0", "title": "x"}\n' * 5000)
    (Path(source.raw) / "items.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match=r"items\.jsonl\.gz is a damaged or truncated gzip"):
        run(store, source)


def test_missing_file_is_refused_by_check_with_what_is_there(store, shop) -> None:
    with pytest.raises(UserError, match=r"raw: the items file.*goods\.csv.*holds interactions\.csv, items\.jsonl"):
        ingest.check(store=store, source=shop(items="goods.csv"))


def test_milliseconds_seconds_and_iso_times_are_told_apart(store, shop) -> None:
    rows = [["u0", "i0", 5, (SECOND + 500) * 1000], ["u1", "i1", 5, "2030-01-02T03:04:05"], ["u2", "i2", 5, "soon"]]
    found = run(store, shop(more_rows=rows))
    times = {(r["user_id"], r["item_id"]): r["timestamp"] for r in store.read(found.interactions).to_pylist()}
    assert times["u0", "i0"].timestamp() == SECOND + 500
    assert times["u1", "i1"].isoformat() == "2030-01-02T03:04:05+00:00"
    tally = counts(store, found)
    assert (tally["timestamp_in_milliseconds"], tally["timestamp_unreadable"]) == (1, 1)


def test_dates_near_the_epoch_are_what_they_say(store, shop) -> None:
    rows = [["u9", "i0", 5, "1970-01-01T01:00:00"], ["u9", "i1", 5, "1971-06-01T00:00:00"]]
    found = run(store, shop(more_rows=rows), core_k=1)
    times = {(r["user_id"], r["item_id"]): r["timestamp"] for r in store.read(found.interactions).to_pylist()}
    assert times["u9", "i0"].isoformat() == "1970-01-01T01:00:00+00:00"
    assert times["u9", "i1"].isoformat() == "1971-06-01T00:00:00+00:00"


def test_a_split_that_leaves_nothing_to_train_on_is_refused(store, shop) -> None:
    source = shop(header=["user_id", "item_id", "timestamp", "rating"])  # the same time throughout
    with pytest.raises(UserError, match=r"global_time leaves none of 36 interactions .* for training"):
        run(store, source, split="global_time")


def test_published_split_column_is_used(store, shop) -> None:
    names = ["train"] * 4 + ["valid", "test"]
    source = shop(
        header=["user_id", "item_id", "rating", "when", "part"],
        interaction_columns=InteractionColumns(timestamp="when", split="part"),
    )
    path = Path(source.raw) / "interactions.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *(f"{line},{names[n % 6]}" for n, line in enumerate(lines[1:]))]) + "\n")
    assert splits(store, run(store, source)) == {"train": 24, "valid": 6, "test": 6}
    assert run(store, source, split="leave_one_out").interactions.rows == 36


def test_published_split_of_a_source_without_one_is_refused(store, shop) -> None:
    with pytest.raises(UserError, match=r"ingest\.split: published"):
        run(store, shop(), split="published")


@pytest.mark.parametrize("gallery", [["2.jpg", "3.jpg", None, "1.jpg"], "2.jpg|3.jpg|1.jpg"], ids=["list", "text"])
def test_a_gallery_of_an_own_catalogue_is_a_list_or_a_text_with_separators(store, shop, gallery) -> None:
    source = shop(
        [{"item_id": "i0", "title": "First of its id"}, {"item_id": "x", "photos": gallery, "image_url": "1.jpg"}],
        [["u0", "x", 5, SECOND]],
        item_columns=ItemColumns(gallery_urls="photos"),
    )
    found = run(store, source, core_k=1)
    row = store.read(found.items).to_pylist()[-1]
    assert [row["item_id"], row["image_url"], *row["gallery_urls"]] == [
        "x", *((Path(source.raw) / name).as_uri() for name in ("1.jpg", "2.jpg", "3.jpg")),
    ]  # fmt: skip


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
                "movies.csv": "movieId,title,genres\ni,A,B\nj,B,C\n", "more.csv": "item_id,image\ni,m_covers/i.jpg\n",
                "ratings.csv": "userId,movieId,timestamp,rating\nu,i,1,4\nu,j,2,4\n",
            },
            MovieLensSource(raw=str(folder), joined="more.csv"),
        ),
        MicroLensSource: (
            {"m_titles.csv": "item,title\ni,A\nj,B\n", "m_pairs.csv": f"user,item,timestamp\n{pairs}"},
            MicroLensSource(raw=str(folder), prefix="m"),
        ),
    }[kind]  # fmt: skip
    for name, text in files.items():
        (folder / name).write_text(text)
    found, config = [], ImagesConfig(file_root=str(folder), give_up_host_after=1)
    for picture in (None, jpeg(1), jpeg(2)):
        if picture is not None:
            (folder / "m_covers" / "i.jpg").write_bytes(picture)
        items = run(store, source, core_k=1).items
        found.append(store.read(images.run(store=store, items=items, config=config)).to_pylist()[0])
    assert [row["status"] for row in found] == ["not_found", "ok", "ok"]
    assert found[0]["url"] == (folder / "m_covers" / "i.jpg").as_uri()
    assert found[1]["sha256"] != found[2]["sha256"]


def test_items_left_out_for_want_of_a_local_picture_come_back_with_it(store, shop) -> None:
    source = shop(image_url="{item_id}.jpg")
    for n in range(5):
        (Path(source.raw) / f"i{n}.jpg").write_bytes(b"x")
    first, again = (run(store, source, require=("image",)) for _ in range(2))
    assert (first.items.rows, again.items.reused) == (5, True)
    assert examples(store, first, "item_without_image") == ["i5"]
    (Path(source.raw) / "i5.jpg").write_bytes(b"x")
    assert run(store, source, require=("image",)).items.rows == 6


def test_where_no_galleries_are_the_versions_are_those_from_before_there_were_any(store, shop) -> None:
    source = shop()
    config = json.loads(run(store, source).items.lineage["cm3.config"])
    assert not any("gallery" in name for name in [*config["source"], *config["source"]["item_columns"]])
    assert "galleries" not in config


def test_documented_example_of_an_own_catalogue_works_as_it_stands(store, tmp_path, monkeypatch) -> None:
    example = yaml.safe_load((Path(__file__).parents[3] / "docs" / "how-to" / "catalogue.example.yaml").read_text())
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "products.csv").write_text(
        "sku,name,long_text,maker,tags,price_eur,photo,more_photos\n"
        "1,Red mug,A mug.,Alma,Home;Mugs,9.50,https://host/1.jpg,https://host/2.jpg https://host/3.jpg\n"
        "2,Blue mug,,,,,,\n3,,Nameless,,,,,\n"
    )
    pl.DataFrame(
        [(f"c{c}", str(sku), stars, DAY) for c in range(3) for sku, stars in ((1, 5), (2, 3), (3, 4))]
        + [("c4", "1", 2, DAY)],
        schema=["customer", "sku", "stars", "ordered_at"], orient="row",
    ).write_parquet(shop / "orders.parquet")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    config = IngestConfig(**example.pop("ingest"))
    found = ingest.run(store=store, dataset="", source=CatalogueSource(**example), config=config)
    assert found.items.dataset == "shop"
    assert store.read(found.items).slice(0, 1).to_pylist() == [
        {
            "item_id": "1", "title": "Red mug", "description": "A mug.", "brand": "Alma",
            "categories": ["Home", "Mugs"], "price": 9.5, "image_url": "https://host/1.jpg",
            "text": "Red mug\nAlma\nHome, Mugs\nA mug.", "gallery_urls": ["https://host/2.jpg", "https://host/3.jpg"],
        }
    ]  # fmt: skip
    assert store.read(found.interactions)["timestamp"][0].as_py().isoformat() == "2024-05-06T07:08:09+00:00"
    assert found.interactions.rows == 6  # three customers, two named products
    assert counts(store, found)["rating_below_threshold"] == 1
