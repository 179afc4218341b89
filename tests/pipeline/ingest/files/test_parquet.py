"""Parquet: what each type of column becomes, and little memory whatever the row groups."""

import random
from datetime import date, time, timedelta
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.ingest.files import parquet
from pipeline.ingest.prices import price
from schemas.errors import UserError
from schemas.sources import CatalogueSource, InteractionColumns
from tests.support.ingest import raw_file_at, read, write


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


def test_parquet_times_and_numbers_as_ids(tmp_path) -> None:
    frame = pl.DataFrame(
        {"user_id": [1, 2], "item_id": [7, 7], "timestamp": ["2020-01-01T00:00:00", "2020-01-02T00:00:00"]}
    )
    frame.with_columns(pl.col("timestamp").str.to_datetime()).write_parquet(tmp_path / "i.parquet")
    raw = write(tmp_path, {"items.jsonl": '{"item_id": 7}\n'})
    _, rows = read(CatalogueSource(raw=raw, interactions="i.parquet"), tmp_path / "cache")
    assert rows.rows() == [("1", "7", None, 1577836800_000_000), ("2", "7", None, 1577923200_000_000)]


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
    monkeypatch.setattr(parquet, "BATCH_BYTES", 4 << 20)
    texts = [random.Random(row).randbytes(5000).hex() for row in range(3000)]
    frame = pl.DataFrame({"item_id": [str(row) for row in range(3000)], "description": texts})
    pq.write_table(frame.to_arrow(), tmp_path / "items.parquet", row_group_size=group, use_dictionary=False)
    file = raw_file_at(tmp_path / "items.parquet")
    before, held, rows = pa.total_allocated_bytes(), [], []
    for batch in parquet.tables(file, ["item_id", "description"]):
        held.append(pa.total_allocated_bytes() - before)
        rows.append(len(batch))
        assert batch["description"].str.len_bytes().sum() <= 4 << 20
    assert sum(rows) == 3000
    assert max(held) < 16 << 20  # of 30 MB
    assert [len(batch) for batch in parquet.tables(file, ["item_id"])] == [3000]


def test_damaged_parquet_is_a_user_error(tmp_path) -> None:
    raw = write(tmp_path, {"items.parquet": "PAR1 not really", "interactions.csv": "user_id,item_id\nu,7\n"})
    with pytest.raises(UserError, match=r"items\.parquet is not a Parquet file"):
        read(CatalogueSource(raw=raw, items="items.parquet"), tmp_path / "cache")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"item_id,title\nA0,Cup\n", r"is text and no Parquet file: if it is CSV, .* ends in \.csv"),
        (b'{"item_id": "A0"}\n', r"if it is JSON, .* ends in \.jsonl"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (b"PAR1 cut off", "is not a Parquet file, or is cut off"),
    ],
)
def test_what_is_called_parquet_and_is_none_is_told(tmp_path, data, what) -> None:
    (tmp_path / "x.parquet").write_bytes(data)
    with pytest.raises(UserError, match=what):
        parquet.column_names(raw_file_at(tmp_path / "x.parquet"))


def test_bytes_as_ids_that_are_no_uuids_are_refused_with_what_to_do(tmp_path) -> None:
    pl.DataFrame({"item_id": [None, b"\xff" * 12]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"neither text nor UUIDs, e\.g\. b'\\xff.*Write it as text"):
        list(parquet.tables(raw_file_at(tmp_path / "x.parquet"), ["item_id"]))


def test_rows_with_pictures_are_read_a_few_at_a_time(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(parquet, "BATCH_BYTES", 1 << 20)
    picture = random.Random(1).randbytes(50_000)
    pl.DataFrame({"id": range(100), "image": [picture] * 100}).write_parquet(
        tmp_path / "x.parquet", use_pyarrow=True, pyarrow_options={"use_dictionary": False}
    )
    pictures = parquet.Embedded(frozenset(["image"]), tmp_path)
    frames = list(parquet.tables(raw_file_at(tmp_path / "x.parquet"), ["id", "image"], pictures))
    assert max(map(len, frames)) <= 25
    addresses = [address for frame in frames for address in frame["image"]]
    assert addresses == [f"{(tmp_path / 'x.parquet').as_uri()}#column=image&row={row}" for row in range(100)]
