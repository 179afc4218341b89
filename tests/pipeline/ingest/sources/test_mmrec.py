"""Folders in MMRec's format: published splits, numbers as ids, and mappings to the original ids."""

import polars as pl
import pytest

from pipeline.ingest.sources.mmrec import MMRec
from pipeline.ingest.tally import Quality
from schemas.errors import UserError
from schemas.sources import MMRecSource
from tests.support.ingest import read, run, sizes, splits, write

INTER = "userID\titemID\tx_label\n0\t0\t0\n0\t2\t1\n1\t1\t2\n"


def test_mmrec_split_is_used_as_published(store, shared_data) -> None:
    ingested = run(store, MMRecSource(raw=str(shared_data / "mmrec"), name="clothing"))
    assert sizes(store, ingested) == (23_033, 39_387, 278_677)
    assert splits(store, ingested) == {"train": 197_338, "valid": 41_189, "test": 40_150}


def test_mmrec_numbers_are_ids_where_no_mapping_is(tmp_path) -> None:
    items, rows = read(MMRecSource(raw=write(tmp_path, {"toy.inter": INTER}), name="toy"), tmp_path / "cache")
    assert [item.item_id for item in items] == ["0", "1", "2"]
    assert rows.select("user_id", "item_id", "split").rows() == [
        ("0", "0", "train"),
        ("0", "2", "valid"),
        ("1", "1", "test"),
    ]


@pytest.mark.parametrize("separator", ["\t", ","])
def test_mmrec_mappings_give_original_ids_in_the_order_of_feature_rows(tmp_path, separator) -> None:
    mappings = {
        "i_id_mapping.csv": "asin\titemID\nB2\t2\nB0\t0\nB1\t1\n".replace("\t", separator),
        "u_id_mapping.csv": "user_id\tuserID\nA0\t0\nA1\t1\n".replace("\t", separator),
    }
    raw = write(tmp_path, {"toy.inter": INTER, **mappings})
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
    batches = source.interactions(source.fetch(), quality, 0.01, published_split=True)
    assert sum(map(len, batches)) == 3
    assert quality.table().to_pylist()[0]["rule"] == "split_unknown"


def test_mmrec_labels_are_not_read_where_another_split_is_asked_for(tmp_path) -> None:
    source = MMRec(MMRecSource(raw=write(tmp_path, {"toy.inter": INTER + "1\t2\t9\n"}), name="toy"), tmp_path / "cache")
    quality = Quality()
    rows = pl.concat(source.interactions(source.fetch(), quality, 0.01, published_split=False))
    assert (len(rows), "split" in rows.columns) == (4, False)
    assert quality.table().num_rows == 0
