"""Own catalogues: every format reads the same, and mappings are obeyed, or refused by name."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.ingest.tally import Quality
from schemas.errors import UserError
from schemas.sources import CatalogueSource, InteractionColumns, ItemColumns
from tests.support.ingest import SECOND, read, rows, run, splits, write

ROWS = [
    {"sku": "007", "name": "Red mug", "tags": ["Home", "Mugs"], "cost": 9.5, "photo": "a.jpg"},
    {"sku": "008", "name": None, "tags": [], "cost": None, "photo": None},
]
EVENTS = [
    {"who": "u1", "sku": "007", "stars": 4.0, "at": SECOND},
    {"who": "u2", "sku": "008", "stars": None, "at": None},
]
COLUMNS = {
    "item_columns": ItemColumns(item_id="sku", title="name", categories="tags", price="cost", image_url="photo"),
    "interaction_columns": InteractionColumns(user_id="who", item_id="sku", rating="stars", timestamp="at"),
}


def write_as(folder: Path, stem: str, suffix: str, rows: list[dict[str, Any]]) -> str:
    path = folder / f"{stem}{suffix}"
    flat = [{k: "|".join(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
    plain = suffix.removesuffix(".gz")
    if plain == ".parquet":
        pl.DataFrame(rows).write_parquet(path)
        return path.name
    if plain in (".csv", ".tsv"):
        data = pl.DataFrame(flat).write_csv(separator="," if plain == ".csv" else "\t").encode()
    else:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    return path.name


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".jsonl", ".jsonl.gz", ".ndjson", ".json", ".parquet"])
def test_every_format_reads_the_same(tmp_path, suffix) -> None:
    names = {
        "items": write_as(tmp_path, "goods", suffix, ROWS),
        "interactions": write_as(tmp_path, "sold", suffix, EVENTS),
    }
    items, frame = read(CatalogueSource(raw=str(tmp_path), **names, **COLUMNS), tmp_path / "cache")
    assert [(i.item_id, i.title, i.categories, i.image_url) for i in items] == [
        ("007", "Red mug", ["Home", "Mugs"], "a.jpg"),
        ("008", "", [], ""),
    ]
    assert float(items[0].price) == 9.5
    assert frame.rows() == [("u1", "007", 4.0, SECOND), ("u2", "008", None, None)]


def test_optional_columns_may_be_absent(tmp_path) -> None:
    raw = write(tmp_path, {"items.jsonl": '{"item_id": 7}\n', "interactions.csv": "user_id,item_id\nu,7\n"})
    (item,), frame = read(CatalogueSource(raw=raw), tmp_path / "cache")
    assert (item.item_id, item.title) == ("7", "")
    assert frame.rows() == [("u", "7", None, None)]


def test_lists_in_the_place_of_texts_are_counted(tmp_path) -> None:
    record = {"item_id": "7", "title": ["A"], "brand": {"name": "B"}, "description": "fine", "image_url": None}
    raw = write(tmp_path, {"items.jsonl": json.dumps(record), "interactions.csv": "user_id,item_id\nu,7\n"})
    quality = Quality()
    (item,), _ = read(CatalogueSource(raw=raw), tmp_path / "cache", quality)
    assert (item.title, item.brand, item.description) == ("", "", "fine")
    assert {row["rule"]: row["examples"] for row in quality.table().to_pylist()} == {
        "title_unreadable": ["7"],
        "brand_unreadable": ["7"],
    }


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_lists_in_lists_and_objects_in_the_place_of_lists_are_counted(tmp_path, suffix) -> None:
    columns = {"item_id": ["7", "8"], "categories": [[["a"]], [["b"]]], "gallery_urls": [{"u": "x"}, None]}
    frame = pl.DataFrame(columns | {"title": "fine"})
    {"jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[suffix](tmp_path / f"items.{suffix}")
    raw = write(tmp_path, {"interactions.csv": "user_id,item_id\nu,7\n"})
    quality = Quality()
    items, _ = read(CatalogueSource(raw=raw, items=f"items.{suffix}"), tmp_path / "cache", quality)
    assert [item.categories for item in items] == [[], []]
    assert {row["rule"]: row["examples"] for row in quality.table().to_pylist()} == {
        "categories_unreadable": ["7", "8"],
        "gallery_urls_unreadable": ["7"],
    }


def test_a_field_that_only_late_records_have_is_read(tmp_path) -> None:
    goods = [{"item_id": n} for n in range(1500)] + [{"item_id": 1500, "brand": "B", "image_url": "http://x/1.jpg"}]
    sold = [{"user_id": "u", "item_id": n} for n in range(1500)] + [{"user_id": "u", "item_id": 1500, "rating": 4}]
    files = {"items.jsonl": goods, "i.jsonl": sold}
    raw = write(tmp_path, {name: "\n".join(map(json.dumps, records)) for name, records in files.items()})
    items, frame = read(CatalogueSource(raw=raw, interactions="i.jsonl"), tmp_path / "cache")
    assert (items[-1].brand, items[-1].image_url) == ("B", "http://x/1.jpg")
    assert frame["rating"].to_list() == [None] * 1500 + [4.0]


def test_a_mapped_field_that_only_late_records_have_is_read_and_one_that_none_has_refused(tmp_path) -> None:
    late = {"item_id": "late", "user_id": "u", "pic": "http://x/1.jpg", "stars": 4}
    lines = [json.dumps({"item_id": str(n), "user_id": "u"}) for n in range(1500)] + [json.dumps(late)]
    raw = write(tmp_path, {"items.jsonl": "\n".join(lines), "i.jsonl": "\n".join(lines)})
    source = CatalogueSource(
        raw=raw,
        interactions="i.jsonl",
        item_columns=ItemColumns(image_url="pic"),
        interaction_columns=InteractionColumns(rating="stars"),
    )
    items, frame = read(source, tmp_path / "cache")
    assert [item.image_url for item in items] == [""] * 1500 + ["http://x/1.jpg"]
    assert frame["rating"].to_list() == [None] * 1500 + [4.0]
    with pytest.raises(UserError, match=r"items\.jsonl: column photo is missing"):
        read(source.model_copy(update={"item_columns": ItemColumns(image_url="photo")}), tmp_path / "cache")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_mapping_holds_also_where_the_file_has_columns_of_our_names(tmp_path, suffix) -> None:
    frame = pl.DataFrame({"user_id": "u", "item_id": "7", "sku": "8", "rating": 1, "stars": 5, "timestamp": 1, "at": 2})
    path = tmp_path / f"i.{suffix}"
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[suffix](path)
    raw = write(tmp_path, {"items.jsonl": '{"item_id": 8}\n'})
    mapping = InteractionColumns(user_id="user_id", item_id="sku", rating="stars", timestamp="at")
    _, rows_read = read(
        CatalogueSource(raw=raw, interactions=path.name, interaction_columns=mapping), tmp_path / "cache"
    )
    assert rows_read.rows() == [("u", "8", 5.0, 2)]


def test_missing_column_names_file_expected_and_found(store, shop) -> None:
    source = shop(header=["user", "item_id", "rating", "timestamp"])
    with pytest.raises(
        UserError, match=r"interactions\.csv: column user_id is missing; expected .*; found user, item_id"
    ):
        run(store, source)
    mapped = source.model_copy(update={"interaction_columns": InteractionColumns(user_id="user")})
    assert run(store, mapped).tables["interactions"].rows == 36


def test_named_column_that_is_absent_is_refused(store, shop) -> None:
    with pytest.raises(UserError, match=r"items\.jsonl: column name is missing.*item_columns"):
        run(store, shop(item_columns=ItemColumns(title="name")))


@pytest.mark.parametrize("gallery", [["2.jpg", "3.jpg", None, "1.jpg"], "2.jpg|3.jpg|1.jpg"], ids=["list", "text"])
def test_a_gallery_is_a_list_or_a_text_with_separators(store, shop, gallery) -> None:
    source = shop(
        [{"item_id": "i0", "title": "First of its id"}, {"item_id": "x", "photos": gallery, "image_url": "1.jpg"}],
        [["u0", "x", 5, SECOND]],
        item_columns=ItemColumns(gallery_urls="photos"),
    )
    item = rows(store, run(store, source, core_k=1), "items")[-1]
    assert item["item_id"] == "x"
    assert [item["image_url"], *item["gallery_urls"]] == [
        (Path(source.raw) / name).as_uri() for name in ("1.jpg", "2.jpg", "3.jpg")
    ]


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
    assert run(store, source, split="leave_one_out").tables["interactions"].rows == 36


def test_a_split_called_so_needs_no_mapping_and_is_left_alone_where_another_is_asked_for(
    store, tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [
        f"u{user},{item},{part}" for user in range(9) for item, part in enumerate(["train"] * 7 + ["test", "valid"])
    ]
    own = "\n".join(["user_id,item_id,split", *lines])
    files = {
        "items.jsonl": "\n".join(f'{{"item_id": "{item}"}}' for item in range(9)),
        "own.csv": own,
        "other.csv": own.replace(",t", ",of t").replace("valid", "north"),
        "two.csv": "\n".join(line for line in own.splitlines() if not line.endswith("valid")),
    }
    raw = write(tmp_path, files)

    def ingested(file: str, **config: Any) -> set[str]:
        published = run(store, CatalogueSource(raw=raw, interactions=file), core_k=1, **config)
        interactions = rows(store, published, "interactions")
        return {f"{row['user_id']},{row['item_id']},{row['split']}" for row in interactions}

    assert ingested("own.csv") == set(lines)
    assert ingested("own.csv", split="published") == set(lines)
    assert "nothing for validation" not in caplog.text
    assert len(ingested("other.csv", split="per_user")) == len(lines)
    assert ingested("two.csv") == {line for line in lines if not line.endswith("valid")}
    assert "nothing for validation" in caplog.text
    with pytest.raises(UserError, match="none of 81 rows has a split we know"):
        ingested("other.csv", split="published")
