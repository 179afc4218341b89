"""MovieLens, MicroLens, MMRec folders and own catalogues in each of their formats."""

import gzip
import json
import random
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.ingest import stage as ingest
from pipeline.ingest.items import price
from pipeline.ingest.raw import RawFile
from pipeline.ingest.sources import catalogue, open_source
from pipeline.ingest.sources.mmrec import MMRec
from pipeline.ingest.tally import Quality
from pipeline.store import Store
from schemas.errors import UserError
from schemas.ingest import IngestConfig
from schemas.sources import (
    CatalogueSource,
    FileSource,
    InteractionColumns,
    ItemColumns,
    MicroLensSource,
    MMRecSource,
    MovieLensSource,
)


def read(config: FileSource, cache: Path) -> tuple[list[Any], pl.DataFrame]:
    source = open_source(config, cache)
    source.check()
    files, quality = source.fetch(), Quality()
    return list(source.items(files, quality, 0.01)), pl.concat(source.interactions(files, quality, 0.01))


def write(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (folder / name).write_text(text)
    return str(folder)


# MovieLens


def test_movielens_with_plots_and_posters_in_one_file(tmp_path) -> None:
    raw = write(tmp_path, {
        "items.csv": 'item_id,title,genres,plot,image\n1,Toy Story (1995),"Animation, Comedy",A doll.,images/1.jpg\n',
        "inter.csv": "user,item,rating,timestamp\n196,1,3,881250949\n",
    })  # fmt: skip
    (item,), rows = read(MovieLensSource(raw=raw), tmp_path / "cache")
    assert (item.title, item.description, item.image_url) == ("Toy Story (1995)", "A doll.", "images/1.jpg")
    assert [category.strip() for category in item.categories] == ["Animation", "Comedy"]
    assert rows.rows() == [("196", "1", 3.0, 881250949)]


def test_movielens_of_grouplens_with_joined_plots_and_posters(tmp_path) -> None:
    raw = write(tmp_path, {
        "movies.csv": "movieId,title,genres\n1,Toy Story (1995),Animation|Comedy\n2,Jumanji (1995),Adventure\n",
        "ratings.csv": "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n",
        "more.csv": "item_id,plot,image\n 1 ,A cowboy doll.,https://host/1.jpg\n1,Another plot.,\n",
    })  # fmt: skip
    items, rows = read(MovieLensSource(raw=raw, joined="more.csv"), tmp_path / "cache")
    assert [(item.description, item.image_url) for item in items] == [
        ("A cowboy doll.", "https://host/1.jpg"),
        ("", ""),
    ]
    assert items[0].categories == ["Animation", "Comedy"]
    assert rows.rows() == [("1", "1", 4.0, 964982703)]


def test_joined_file_without_its_columns_is_refused(tmp_path) -> None:
    raw = write(tmp_path, {
        "movies.csv": "movieId,title,genres\n1,A,B\n", "ratings.csv": "userId,movieId,rating,timestamp\n1,1,4,9\n",
        "more.csv": "id,story\n1,x\n",
    })  # fmt: skip
    with pytest.raises(UserError, match=r"more\.csv: expected item_id with plot, image or both; found id, story"):
        read(MovieLensSource(raw=raw, joined="more.csv"), tmp_path / "cache")


# MicroLens


@pytest.mark.parametrize(
    ("pairs", "titles"),
    [
        ("user,item,timestamp\n7,11,1583378629552\n", "item,title\n11,Piano at night\n"),
        ("userID,videoID,timestamp\n7,11,1583378629552\n", "videoID,title\n11,Piano at night\n"),
        ("7,11,1583378629552\n", "11,Piano at night\n"),
    ],
)
def test_microlens_with_each_header_seen(tmp_path, pairs, titles) -> None:
    raw = write(tmp_path, {"MicroLens-100k_pairs.csv": pairs, "MicroLens-100k_title_en.csv": titles})
    (item,), rows = read(MicroLensSource(raw=raw, prefix="MicroLens-100k"), tmp_path / "cache")
    assert (item.item_id, item.title, item.image_url) == ("11", "Piano at night", "MicroLens-100k_covers/11.jpg")
    assert rows.rows() == [("7", "11", None, 1583378629552)]


def test_microlens_with_other_columns_is_refused(tmp_path) -> None:
    raw = write(tmp_path, {"MicroLens-50k_pairs.csv": "a,b\nx,y\n", "MicroLens-50k_titles.csv": "item,title\n1,x\n"})
    with pytest.raises(UserError, match=r"MicroLens-50k_pairs\.csv: no column user or userID.*found a, b"):
        read(MicroLensSource(raw=raw), tmp_path / "cache")


# MMRec

INTER = "userID\titemID\tx_label\n0\t0\t0\n0\t2\t1\n1\t1\t2\n"


def test_mmrec_numbers_are_ids_where_no_mapping_is(tmp_path) -> None:
    items, rows = read(MMRecSource(raw=write(tmp_path, {"toy.inter": INTER}), name="toy"), tmp_path / "cache")
    assert [item.item_id for item in items] == ["0", "1", "2"]
    assert rows.select("user_id", "item_id", "split").rows() == [
        ("0", "0", "train"), ("0", "2", "valid"), ("1", "1", "test"),
    ]  # fmt: skip


@pytest.mark.parametrize("separator", ["\t", ","])
def test_mmrec_mappings_give_original_ids_in_the_order_of_feature_rows(tmp_path, separator) -> None:
    raw = write(tmp_path, {
        "toy.inter": INTER,
        "i_id_mapping.csv": "asin\titemID\nB2\t2\nB0\t0\nB1\t1\n".replace("\t", separator),
        "u_id_mapping.csv": "user_id\tuserID\nA0\t0\nA1\t1\n".replace("\t", separator),
    })  # fmt: skip
    config = MMRecSource(raw=raw, name="toy")
    items, rows = read(config, tmp_path / "cache")
    assert [item.item_id for item in items] == ["B0", "B1", "B2"]
    assert rows.select("user_id", "item_id").rows() == [("A0", "B0"), ("A0", "B2"), ("A1", "B1")]
    source = MMRec(config, tmp_path / "cache")
    assert source.item_ids(source.fetch()) == ["B0", "B1", "B2"]


def test_mmrec_mapping_of_another_data_set_is_refused(tmp_path) -> None:
    raw = write(tmp_path, {"toy.inter": INTER, "i_id_mapping.csv": "asin\titemID\nB0\t0\nB1\t1\n"})
    with pytest.raises(UserError, match=r"i_id_mapping\.csv has no original id for number 2"):
        read(MMRecSource(raw=raw, name="toy"), tmp_path / "cache")


def test_mmrec_numbers_that_are_no_rows_are_refused(tmp_path) -> None:
    raw = write(tmp_path, {"x.inter": "userID\titemID\tx_label\n1\t2000000000\t0\n"})
    with pytest.raises(UserError, match=r"x\.inter: itemID 2,000,000,000 in 1 rows is no number of a row"):
        read(MMRecSource(raw=raw, name="x"), tmp_path / "cache")


def test_mmrec_mapping_of_three_columns_is_refused(tmp_path) -> None:
    inter = "userID\titemID\tx_label\n1\t0\t0\n"
    raw = write(tmp_path, {"x.inter": inter, "i_id_mapping.csv": "itemID\ttitle\tasin\n0\tShirt\tB0\n"})
    with pytest.raises(UserError, match=r"expected two columns, itemID and the original id; found itemID, title, asin"):
        read(MMRecSource(raw=raw, name="x"), tmp_path / "cache")


def test_mmrec_unknown_label_is_counted(tmp_path) -> None:
    source = MMRec(MMRecSource(raw=write(tmp_path, {"toy.inter": INTER + "1\t2\t9\n"}), name="toy"), tmp_path / "cache")
    quality = Quality()
    assert sum(len(batch) for batch in source.interactions(source.fetch(), quality, 0.01)) == 3
    assert quality.table().to_pylist()[0]["rule"] == "split_unknown"


# Own catalogues

ROWS = [
    {"sku": "007", "name": "Red mug", "tags": ["Home", "Mugs"], "cost": 9.5, "photo": "a.jpg"},
    {"sku": "008", "name": None, "tags": [], "cost": None, "photo": None},
]
EVENTS = [{"who": "u1", "sku": "007", "stars": 4.0, "at": 1_400_000_000}, {"who": "u2", "sku": "008", "stars": None, "at": None}]  # fmt: skip # noqa: E501
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
    items, rows = read(CatalogueSource(raw=str(tmp_path), **names, **COLUMNS), tmp_path / "cache")
    assert [(i.item_id, i.title, i.categories, i.image_url) for i in items] == [
        ("007", "Red mug", ["Home", "Mugs"], "a.jpg"), ("008", "", [], ""),
    ]  # fmt: skip
    assert float(items[0].price) == 9.5
    assert rows.rows() == [("u1", "007", 4.0, 1_400_000_000), ("u2", "008", None, None)]


def test_optional_columns_may_be_absent(tmp_path) -> None:
    raw = write(tmp_path, {"items.jsonl": '{"item_id": 7}\n', "interactions.csv": "user_id,item_id\nu,7\n"})
    (item,), rows = read(CatalogueSource(raw=raw), tmp_path / "cache")
    assert (item.item_id, item.title) == ("7", "")
    assert rows.rows() == [("u", "7", None, None)]


@pytest.mark.parametrize(
    "ids",
    [
        pl.Series([7.0, None, 8.0]),  # what pandas makes of numbers where one is missing
        pl.Series([7.0, float("nan"), 8.0]),
        pl.Series([Decimal(7), None, Decimal(8)]),
        pl.Series([b"7", None, b"8"]),
        pl.Series(["7", None, "8"], dtype=pl.Categorical),
    ],
    ids=["float", "nan", "decimal", "bytes", "categorical"],
)
def test_ids_in_parquet_are_the_same_text_in_both_files_whatever_their_type(ids, tmp_path) -> None:
    pl.DataFrame({"item_id": ids}).write_parquet(tmp_path / "items.parquet")
    pl.DataFrame({"user_id": ids, "item_id": ids}).write_parquet(tmp_path / "interactions.parquet")
    source = CatalogueSource(raw=str(tmp_path), items="items.parquet", interactions="interactions.parquet")
    items, rows = read(source, tmp_path / "cache")
    assert [item.item_id for item in items] == ["7", "8"]
    assert rows.select("user_id", "item_id").rows() == [("7", "7"), ("8", "8")]


def test_long_numbers_as_ids_are_the_same_text_as_floats_as_in_json(tmp_path) -> None:
    ids = [7.0, -3.0, 2.0**63, 1e19, 1e20, 1e22]
    pl.DataFrame({"item_id": ids}).write_parquet(tmp_path / "items.parquet")
    pl.DataFrame({"user_id": "u", "item_id": ids}).write_parquet(tmp_path / "i.parquet")
    raw = write(tmp_path, {"i.jsonl": "".join(f'{{"user_id": "u", "item_id": {int(each)}}}\n' for each in ids)})
    for name in ("i.parquet", "i.jsonl"):
        items, rows = read(CatalogueSource(raw=raw, items="items.parquet", interactions=name), tmp_path / "cache")
        assert rows["item_id"].to_list() == [item.item_id for item in items] == [str(int(each)) for each in ids]


def test_lists_in_the_place_of_texts_are_counted(tmp_path) -> None:
    item = {"item_id": "7", "title": ["A"], "brand": {"name": "B"}, "description": "fine", "image_url": None}
    raw = write(tmp_path, {"items.jsonl": json.dumps(item), "interactions.csv": "user_id,item_id\nu,7\n"})
    source = open_source(CatalogueSource(raw=raw), tmp_path / "cache")
    quality = Quality()
    (found,) = source.items(source.fetch(), quality, 0.01)
    assert (found.title, found.brand, found.description) == ("", "", "fine")
    assert {row["rule"]: row["examples"] for row in quality.table().to_pylist()} == {
        "title_unreadable": ["7"],
        "brand_unreadable": ["7"],
    }


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_lists_in_lists_and_objects_in_the_place_of_lists_are_counted(tmp_path, suffix) -> None:
    frame = pl.DataFrame({
        "item_id": ["7", "8"], "categories": [[["a"]], [["b"]]], "gallery_urls": [{"u": "x"}, None], "title": "fine",
    })  # fmt: skip
    {"jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[suffix](tmp_path / f"items.{suffix}")
    raw = write(tmp_path, {"interactions.csv": "user_id,item_id\nu,7\n"})
    source = open_source(CatalogueSource(raw=raw, items=f"items.{suffix}"), tmp_path / "cache")
    quality = Quality()
    assert [item.categories for item in source.items(source.fetch(), quality, 0.01)] == [[], []]
    assert {row["rule"]: row["examples"] for row in quality.table().to_pylist()} == {
        "categories_unreadable": ["7", "8"], "gallery_urls_unreadable": ["7"],
    }  # fmt: skip


def test_a_field_that_only_late_records_have_is_read(tmp_path) -> None:
    items = [{"item_id": n} for n in range(1500)] + [{"item_id": 1500, "brand": "B", "image_url": "http://x/1.jpg"}]
    rows = [{"user_id": "u", "item_id": n} for n in range(1500)] + [{"user_id": "u", "item_id": 1500, "rating": 4}]
    files = {"items.jsonl": items, "i.jsonl": rows}
    raw = write(tmp_path, {name: "\n".join(map(json.dumps, lines)) for name, lines in files.items()})
    found, typed = read(CatalogueSource(raw=raw, interactions="i.jsonl"), tmp_path / "cache")
    assert (found[-1].brand, found[-1].image_url) == ("B", "http://x/1.jpg")
    assert typed["rating"].to_list() == [None] * 1500 + [4.0]


def test_a_mapped_field_that_only_late_records_have_is_read_and_one_that_none_has_refused(tmp_path) -> None:
    late = {"item_id": "late", "user_id": "u", "pic": "http://x/1.jpg", "stars": 4}
    lines = [json.dumps({"item_id": str(n), "user_id": "u"}) for n in range(1500)] + [json.dumps(late)]
    raw = write(tmp_path, {"items.jsonl": "\n".join(lines), "i.jsonl": "\n".join(lines)})
    source = CatalogueSource(
        raw=raw, interactions="i.jsonl", item_columns=ItemColumns(image_url="pic"),
        interaction_columns=InteractionColumns(rating="stars"),
    )  # fmt: skip
    items, rows = read(source, tmp_path / "cache")
    assert [item.image_url for item in items] == [""] * 1500 + ["http://x/1.jpg"]
    assert rows["rating"].to_list() == [None] * 1500 + [4.0]
    with pytest.raises(UserError, match=r"items\.jsonl: column photo is missing"):
        read(source.model_copy(update={"item_columns": ItemColumns(image_url="photo")}), tmp_path / "cache")


@pytest.mark.parametrize(
    ("dtype", "ids"),
    [
        (pa.decimal128(20, 0), ["9007199254740992", "9007199254740993"]),
        (pa.decimal128(20, 2), ["9007199254740992.01", "9007199254740992.50"]),
        (pa.decimal256(60, 0), ["9" * 50 + "1", "9" * 50 + "2"]),
    ],
    ids=str,
)
def test_decimal_ids_are_exact(tmp_path, dtype, ids) -> None:
    written = pa.array([Decimal(each) for each in ids], dtype)
    number = pa.array([Decimal("4.5")] * 2, pa.decimal128(5, 2))
    pq.write_table(pa.table({"item_id": written, "price": number}), tmp_path / "items.parquet")
    pq.write_table(pa.table({"user_id": ["u", "v"], "item_id": written, "rating": number}), tmp_path / "i.parquet")
    source = CatalogueSource(raw=str(tmp_path), items="items.parquet", interactions="i.parquet")
    items, rows = read(source, tmp_path / "cache")
    assert [item.item_id for item in items] == rows["item_id"].to_list() == ids
    assert [price(item.price) for item in items] == rows["rating"].to_list() == [4.5, 4.5]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_mapping_holds_also_where_the_file_has_columns_of_our_names(tmp_path, suffix) -> None:
    frame = pl.DataFrame({"user_id": "u", "item_id": "7", "sku": "8", "rating": 1, "stars": 5, "timestamp": 1, "at": 2})
    path = tmp_path / f"i.{suffix}"
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[suffix](path)
    raw = write(tmp_path, {"items.jsonl": '{"item_id": 8}\n'})
    mapping = InteractionColumns(user_id="user_id", item_id="sku", rating="stars", timestamp="at")
    _, rows = read(CatalogueSource(raw=raw, interactions=path.name, interaction_columns=mapping), tmp_path / "cache")
    assert rows.rows() == [("u", "8", 5.0, 2)]


@pytest.mark.parametrize("times", [pl.Series([time(1)]), pl.Series([timedelta(1)])], ids=["time", "duration"])
def test_times_of_day_are_refused_by_name(tmp_path, times) -> None:
    pl.DataFrame({"user_id": "u", "item_id": "7", "timestamp": times}).write_parquet(tmp_path / "i.parquet")
    raw = write(tmp_path, {"items.jsonl": '{"item_id": 7}\n'})
    with pytest.raises(UserError, match=r"i\.parquet: expected a number, text or date .* found timestamp"):
        read(CatalogueSource(raw=raw, interactions="i.parquet"), tmp_path / "cache")


def test_dates_as_ratings_are_refused_by_name(tmp_path) -> None:
    pl.DataFrame({"user_id": "u", "item_id": "7", "rating": date(2020, 1, 1)}).write_parquet(tmp_path / "i.parquet")
    raw = write(tmp_path, {"items.jsonl": '{"item_id": 7}\n'})
    with pytest.raises(UserError, match=r"i\.parquet: expected a number, text or date .* found rating \(Date\)"):
        read(CatalogueSource(raw=raw, interactions="i.parquet"), tmp_path / "cache")


def test_a_split_called_so_needs_no_mapping_and_is_left_alone_where_another_is_asked_for(
    tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [
        f"u{user},{item},{part}" for user in range(9) for item, part in enumerate(["train"] * 7 + ["test", "valid"])
    ]
    raw = write(tmp_path, {
        "items.jsonl": "\n".join(f'{{"item_id": "{item}"}}' for item in range(9)),
        "own.csv": "\n".join(["user_id,item_id,split", *lines]),
        "other.csv": "\n".join(["user_id,item_id,split", *lines]).replace(",t", ",of t").replace("valid", "north"),
    })  # fmt: skip
    store = Store(tmp_path / "store")

    def ingested(file: str, **config: Any) -> dict[str, str]:
        source = CatalogueSource(raw=raw, interactions=file)
        found = ingest.run(store=store, dataset="x", source=source, config=IngestConfig(core_k=1, **config))
        rows = store.read(found.interactions).to_pylist()
        return {f"{row['user_id']},{row['item_id']},{row['split']}": row["split"] for row in rows}

    assert ingested("own.csv").keys() == set(lines)
    assert ingested("own.csv", split="published").keys() == set(lines)
    assert "nothing for validation" not in caplog.text
    assert len(ingested("other.csv", split="per_user")) == len(lines)
    rows = [line for line in lines if not line.endswith("valid")]
    write(tmp_path, {"two.csv": "\n".join(["user_id,item_id,split", *rows])})
    assert ingested("two.csv").keys() == set(rows)
    assert "nothing for validation" in caplog.text
    with pytest.raises(UserError, match="none of 81 rows has a split we know"):
        ingested("other.csv", split="published")


def test_a_published_split_of_floats_is_understood_and_an_unknown_one_named(tmp_path) -> None:
    raw = write(tmp_path, {"items.jsonl": '{"item_id": 7}\n'})
    mapping = InteractionColumns(split="part")
    source = CatalogueSource(raw=raw, interactions="i.parquet", interaction_columns=mapping)
    pl.DataFrame({"user_id": "u", "item_id": "7", "part": [0.0, 1.0, 2.0]}).write_parquet(tmp_path / "i.parquet")
    assert read(source, tmp_path / "cache")[1]["split"].to_list() == ["train", "valid", "test"]
    write(tmp_path, {"i.csv": "user_id,item_id,part\nu,7,0.0\nu,7,1.0\nu,7, Test\n"})
    as_csv = source.model_copy(update={"interactions": "i.csv"})
    assert read(as_csv, tmp_path / "cache")[1]["split"].to_list() == ["train", "valid", "test"]
    pl.DataFrame({"user_id": "u", "item_id": "7", "part": ["x", "y"]}).write_parquet(tmp_path / "i.parquet")
    with pytest.raises(UserError, match=r"none of 2 rows has a split we know in part"):
        read(source, tmp_path / "cache")


def test_nested_ids_are_refused_by_name(tmp_path) -> None:
    pl.DataFrame({"item_id": ["7"]}).write_parquet(tmp_path / "items.parquet")
    pl.DataFrame({"user_id": ["u"], "item_id": [["7"]]}).write_parquet(tmp_path / "interactions.parquet")
    source = CatalogueSource(raw=str(tmp_path), items="items.parquet", interactions="interactions.parquet")
    with pytest.raises(UserError, match=r"interactions\.parquet: .* found item_id \(List"):
        read(source, tmp_path / "cache")


@pytest.mark.parametrize("group", [500, 3000])
def test_parquet_of_long_texts_is_read_in_little_memory_whatever_its_row_groups(tmp_path, monkeypatch, group) -> None:
    monkeypatch.setattr(catalogue, "BATCH_BYTES", 4 << 20)
    texts = [random.Random(row).randbytes(5000).hex() for row in range(3000)]
    frame = pl.DataFrame({"item_id": [str(row) for row in range(3000)], "description": texts})
    pq.write_table(frame.to_arrow(), tmp_path / "items.parquet", row_group_size=group, use_dictionary=False)
    file = RawFile("items.parquet", tmp_path / "items.parquet", "", "")
    before, held, rows = pa.total_allocated_bytes(), [], []
    for batch in catalogue.parquet(file, ["item_id", "description"]):
        held.append(pa.total_allocated_bytes() - before)
        rows.append(len(batch))
        assert batch["description"].str.len_bytes().sum() <= 4 << 20
    assert sum(rows) == 3000
    assert max(held) < 16 << 20  # of 30 MB
    assert [len(batch) for batch in catalogue.parquet(file, ["item_id"])] == [3000]


def test_damaged_parquet_is_a_user_error(tmp_path) -> None:
    raw = write(tmp_path, {"items.parquet": "PAR1 not really", "interactions.csv": "user_id,item_id\nu,7\n"})
    with pytest.raises(UserError, match=r"items\.parquet is not a Parquet file"):
        read(CatalogueSource(raw=raw, items="items.parquet"), tmp_path / "cache")


def test_parquet_times_and_numbers_as_ids(tmp_path) -> None:
    frame = pl.DataFrame(
        {"user_id": [1, 2], "item_id": [7, 7], "timestamp": ["2020-01-01T00:00:00", "2020-01-02T00:00:00"]}
    )
    frame.with_columns(pl.col("timestamp").str.to_datetime()).write_parquet(tmp_path / "i.parquet")
    raw = write(tmp_path, {"items.jsonl": '{"item_id": 7}\n'})
    _, rows = read(CatalogueSource(raw=raw, interactions="i.parquet"), tmp_path / "cache")
    assert rows.rows() == [("1", "7", None, 1577836800_000_000), ("2", "7", None, 1577923200_000_000)]
