"""Every release of Amazon Reviews as it really is: names, schemas and orders of columns differ."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline import ingest
from pipeline.ingest.sources.amazon import METADATA, REVIEWS, Amazon, full_size, item_2014, item_2018, item_2023
from pipeline.ingest.tally import Quality
from schemas.errors import UserError
from schemas.sources import RELEASES, AmazonSource
from tests.support import ingest as support
from tests.support.ingest import rows, run, sizes


def amazon(folder: Path, **fields: Any) -> Amazon:
    return Amazon(AmazonSource(raw=str(folder), **fields), folder / "cache")


def read(folder: Path, quality: Quality | None = None, **fields: Any) -> tuple[list[Any], list[tuple[Any, ...]]]:
    items, interactions = support.read(AmazonSource(raw=str(folder), **fields), folder / "cache", quality)
    return items, interactions.rows()


@pytest.mark.parametrize(
    ("category", "reviews", "metadata", "expected", "galleries"),
    [
        ("Gift_Cards", 2972, 1547, {"repeated_interaction": 7, "title_entities": 178}, (66, 241)),
        (
            "Magazine_Subscriptions",
            2375,
            3385,
            {"repeated_interaction": 69, "duplicate_item": 1065, "title_html": 2163},
            (119, 562),
        ),
    ],
)
def test_amazon_2018_is_read_with_its_exact_counts(
    store, shared_data, category, reviews, metadata, expected, galleries
) -> None:
    ingested = run(store, AmazonSource(category=category, raw=str(shared_data / "amazon-2018")), core_k=1)
    counts, tables = ingested.counts, ingested.tables
    for rule, count in expected.items():
        assert counts[rule] == count
    assert tables["interactions"].rows + counts["repeated_interaction"] + counts.get("unknown_item", 0) == reviews
    assert tables["items"].rows + counts.get("duplicate_item", 0) == metadata
    items = [item for item in rows(store, ingested, "items") if item["interactions"]]
    main = [item["image_url"] for item in items if item["image_url"]]
    assert len(main) > 100
    further = [item["gallery_urls"] for item in items if item["gallery_urls"]]
    assert (len(further), sum(map(len, further))) == galleries
    assert not any("_SX38_" in url or "_SY50_" in url for urls in (main, *further) for url in urls)


def test_amazon_2018_with_photos_and_titles_has_the_known_five_core(store, shared_data) -> None:
    source = AmazonSource(category="gift cards", raw=str(shared_data / "amazon-2018"), image_url="images/{item_id}.jpg")
    assert sizes(store, run(store, source, core_k=1, require=("title", "image")))[:2] == (115, 458)
    core = run(store, source, require=("title", "image"))
    assert sizes(store, core) == (100, 290, 1810)
    assert core.tables["items"].rows == 442
    assert core.counts["interaction_outside_5_core"] == 2477 - 1810
    items = rows(store, core, "items")
    assert all(Path(item["image_url"].removeprefix("file://")).is_file() for item in items)


def test_amazon_without_metadata_is_refused_before_any_work(store, shared_data) -> None:
    source = AmazonSource(category="AMAZON_FASHION", raw=str(shared_data / "amazon-2018"))
    with pytest.raises(UserError, match=r"meta_AMAZON_FASHION\.json\.gz.* holds .*AMAZON_FASHION_5\.json\.gz"):
        ingest.check(store=store, source=source)


@pytest.mark.parametrize(
    ("thumbnail", "full"),
    [
        ("51Iph04Jy3L._SX38_SY50_CR,0,0,38,50_.jpg", "51Iph04Jy3L.jpg"),
        ("51se%2BqMOjGL._SX38_SY50_CR,0,0,38,50_.jpg", "51se%2BqMOjGL.jpg"),
        ("61x._SX35_SY46._CR0,0,35,46_BG85,85,85_BR-120_PKdp-play-icon-overlay__.jpg", "61x.jpg"),
        ("51-abc_d.jpg", "51-abc_d.jpg"),
    ],
)
def test_thumbnail_becomes_full_size(thumbnail, full) -> None:
    base = "https://images-na.ssl-images-amazon.com/images/I/"
    assert full_size(base + thumbnail) == base + full


def test_release_2014_reads_real_literals_and_ratings(shared_data, tmp_path) -> None:
    shutil.copy(shared_data / "amazon-2014" / "meta_sample.json.gz", tmp_path / "meta_Beauty.json.gz")
    shutil.copy(shared_data / "amazon-2014" / "ratings_sample.csv.gz", tmp_path / "ratings_Beauty.csv.gz")
    items, interactions = read(tmp_path, release=2014, category="beauty")
    assert [item.item_id for item in items] == ["0000191639", "0005069491", "0076561046", "0558925278", "0737104473"]
    assert items[0].categories == ["Toys & Games", "Puzzles", "Jigsaw Puzzles"]
    assert items[0].description.startswith("Three Dr. Suess' Puzzles")
    assert (items[0].brand, items[0].price) == ("Dr. Seuss", 37.12)
    assert items[3].image_url == "http://ecx.images-amazon.com/images/I/51L%2BzYCQWSL._SX300_.jpg"
    assert interactions == [
        ("A39HTATAQ9V7YF", "0205616461", 5.0, 1369699200),
        ("A3JM6GV9MNOF9X", "0558925278", 3.0, 1355443200),
    ]


def test_release_2023_reads_real_metadata(shared_data, tmp_path) -> None:
    shutil.copy(shared_data / "amazon-2023" / "meta_sample.jsonl.gz", tmp_path / "meta_Gift_Cards.jsonl.gz")
    review = {"rating": 5.0, "asin": "B0OLD", "parent_asin": "B06ZXTKYHN", "user_id": "AE1", "timestamp": 1549866158332}
    (tmp_path / "Gift_Cards.jsonl").write_text(json.dumps(review) + "\n")
    items, interactions = read(tmp_path, release=2023, category="gift cards")
    assert [item.item_id for item in items] == ["B06ZXTKYHN", "B08W5BSH6V", "B07NTK7T5P", "B01HYNE114"]
    assert items[0].image_url == "https://m.media-amazon.com/images/I/71cWJvVGYtL._SL1500_.jpg"
    assert items[2].image_url == "https://m.media-amazon.com/images/I/41J3kMGt34L.jpg"  # hi_res is null
    assert items[1].categories == ["SUBSCRIPTION BOXES"]
    assert [len(item.gallery_urls) for item in items] == [1, 1, 1, 0]
    assert items[3].brand == "Zoë Noelle Designs"
    assert interactions == [("AE1", "B06ZXTKYHN", 5.0, 1549866158332)]


def test_features_and_details_of_2023_go_into_the_text_alone(store, tmp_path) -> None:
    details = {"Colour": "Blue", "Best Sellers Rank": {"Home": 7}, "Weight": 300, "Empty": "", "Packed": None}
    plain = {"parent_asin": "B1", "title": "Cup", "store": "Alma", "description": ["Nice.", "Round."]}
    full = plain | {"parent_asin": "B2", "features": ["Holds <b>300 ml</b>", "", "Dishwasher safe"], "details": details}
    (tmp_path / "meta_Gift_Cards.jsonl").write_text("\n".join(map(json.dumps, (plain, full))))
    (tmp_path / "Gift_Cards.csv").write_text("user_id,parent_asin,rating,timestamp\nu,B1,5,1549866158332\n")
    source = AmazonSource(raw=str(tmp_path), release=2023, category="gift cards")
    first, second = rows(store, run(store, source, core_k=1), "items")
    assert first["text"] == "Cup\nAlma\nNice. Round."
    assert second["text"] == f"{first['text']}\nHolds 300 ml\nDishwasher safe\nColour: Blue\nWeight: 300"
    assert first["description"] == second["description"] == "Nice. Round."


def test_main_variant_is_preferred_wherever_it_stands() -> None:
    images = [{"variant": "PT01", "large": "p.jpg"}, {"variant": "MAIN", "hi_res": None, "large": "m.jpg"}]
    assert item_2023("a", {"images": images}).image_url == "m.jpg"
    assert item_2023("a", {"images": images[:1]}).image_url == "p.jpg"
    assert item_2023("a", {"images": None}).image_url == item_2023("a", {}).image_url == ""


def test_both_schemas_of_2018_give_the_full_size_picture() -> None:
    thumbnail = "https://h/I/51a._SX38_SY50_CR,0,0,38,50_.jpg"
    assert item_2018("a", {"imageURL": [thumbnail], "imageURLHighRes": []}).image_url == "https://h/I/51a.jpg"
    assert item_2018("a", {"imageURL": [thumbnail], "imageURLHighRes": ["https://h/I/51a.jpg"]}).image_url.endswith(
        "51a.jpg"
    )
    assert item_2018("a", {"image": [thumbnail]}).image_url == "https://h/I/51a.jpg"
    assert item_2018("a", {"image": []}).image_url == ""


def test_the_pictures_after_the_main_one_are_the_gallery_in_their_order() -> None:
    small = "https://h/I/{}._SX38_SY50_CR,0,0,38,50_.jpg"
    assert item_2018("a", {"imageURL": [small.format(n) for n in "abc"]}).gallery_urls == [
        "https://h/I/b.jpg",
        "https://h/I/c.jpg",
    ]
    images = [
        {"variant": "PT01", "hi_res": "p1-hi.jpg", "large": "p1.jpg"},
        {"variant": "PT02", "hi_res": None, "large": None, "thumb": None},
        {"variant": "MAIN", "hi_res": None, "large": "m.jpg"},
        {"variant": "PT03", "hi_res": None, "large": None, "thumb": "p3.jpg"},
    ]
    item = item_2023("a", {"images": images})
    assert (item.image_url, item.gallery_urls) == ("m.jpg", ["p1-hi.jpg", "p3.jpg"])
    assert item_2014("a", {"imUrl": "x.jpg"}).gallery_urls == []


@pytest.mark.parametrize("make", [item_2014, item_2018, item_2023])
def test_fields_of_unexpected_types_are_left_out(make) -> None:
    texts = ("title", "description", "brand", "store", "category", "categories", "main_category")
    item = make("a", dict.fromkeys((*texts, "image", "images", "imUrl"), 7))
    assert (item.title, item.description, item.brand, item.categories, item.image_url) == ("", "", "", [], "")


def test_ratings_of_2018_name_the_item_first(tmp_path) -> None:
    (tmp_path / "meta_Software.json").write_text('{"asin": "B01"}\n')
    (tmp_path / "Software.csv").write_text("B01,A1USER,4.0,1393545600\n")
    _, interactions = read(tmp_path, category="Software")
    assert interactions == [("A1USER", "B01", 4.0, 1393545600)]


def test_ratings_of_2023_have_a_header(tmp_path) -> None:
    (tmp_path / "meta_Software.jsonl").write_text('{"parent_asin": "B01"}\n')
    (tmp_path / "Software.csv").write_text("user_id,parent_asin,rating,timestamp\nAE1,B01,4.0,1549866158332\n")
    _, interactions = read(tmp_path, category="Software", release=2023)
    assert interactions == [("AE1", "B01", 4.0, 1549866158332)]


@pytest.mark.parametrize("release", list(RELEASES))
def test_every_known_name_is_found_with_and_without_gz(tmp_path, release) -> None:
    metadata = METADATA[release].format("Software" if release != 2014 else "Baby")
    for reviews in REVIEWS[release]:
        name = reviews.format("Software" if release != 2014 else "Baby")
        for packed in (True, False):
            folder = tmp_path / f"{name}-{packed}"
            folder.mkdir()
            for file in (name, metadata):
                path = folder / (file.removesuffix(".gz") + (".gz" if packed else ""))
                path.write_bytes(gzip.compress(b"") if packed else b"")
            amazon(folder, release=release, category="Software" if release != 2014 else "Baby").check()


def test_five_core_reviews_are_preferred(tmp_path) -> None:
    for name in ("meta_Software.json.gz", "Software.csv", "Software.json.gz", "Software_5.json"):
        (tmp_path / name).touch()
    assert amazon(tmp_path, category="Software").fetch()["interactions"].name == "Software_5.json"


def test_public_addresses_are_the_distributions_own() -> None:
    source = Amazon(AmazonSource(category="Gift_Cards", release=2023), Path("unused"))
    assert source.raw.public["meta_Gift_Cards.jsonl.gz"].endswith(
        "amazon_2023/raw/meta_categories/meta_Gift_Cards.jsonl.gz"
    )
    assert source.raw.public["Gift_Cards.jsonl.gz"].endswith("amazon_2023/raw/review_categories/Gift_Cards.jsonl.gz")


def test_relative_template_without_raw_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="image_url: a relative template needs `raw`"):
        Amazon(AmazonSource(category="Software", image_url="images/{item_id}.jpg"), tmp_path).check()


def test_items_without_asin_are_counted_by_title(tmp_path) -> None:
    (tmp_path / "meta_Software.json").write_text('{"asin": "B01"}\n{"title": "Nobody\'s"}\n')
    (tmp_path / "Software.csv").write_text("B01,A1USER,4.0,1393545600\n")
    quality = Quality()
    items, _ = read(tmp_path, quality, category="Software")
    assert len(items) == 1
    assert quality.table().to_pylist()[0]["examples"] == ["Nobody's"]


@pytest.mark.parametrize(
    ("release", "category", "reviews", "fine", "odd"),
    [
        (
            2014,
            "Beauty",
            "ratings_Beauty.csv",
            {"categories": [["a", "b"]], "imUrl": "http://x/1.jpg"},
            {"categories": [["a", ["b"]]], "imUrl": {"x": "http://x"}},
        ),
        (
            2018,
            "Software",
            "Software.csv",
            {"category": ["a"], "image": ["http://x/1.jpg"]},
            {"category": [["a"]], "imageURL": {"x": 1}, "image": [["y"]]},
        ),
        (
            2023,
            "All_Beauty",
            "All_Beauty.csv",
            {"categories": ["a"], "images": [{"large": "http://x/1.jpg"}]},
            {"categories": {"a": 1}, "images": {"large": ["http://x"]}},
        ),
    ],
)
def test_fields_that_cannot_be_read_are_counted_once_per_item(tmp_path, release, category, reviews, fine, odd) -> None:
    name = "parent_asin" if release == 2023 else "asin"
    records = [{name: "B01", "title": "T", "description": [""], **fine}, {name: "B02", "title": {"x": "T"}, **odd}]
    metadata = tmp_path / METADATA[release].format(category).removesuffix(".gz")
    metadata.write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / reviews).write_text("")
    source, quality = amazon(tmp_path, category=category, release=release), Quality()
    assert len(list(source.items(source.fetch(), quality, 0.01))) == 2
    assert [(row["rule"], row["count"], row["examples"]) for row in quality.table().to_pylist()] == [
        ("title_unreadable", 1, ["B02"]),
        ("categories_unreadable", 1, ["B02"]),
        ("image_url_unreadable", 1, ["B02"]),
    ]
