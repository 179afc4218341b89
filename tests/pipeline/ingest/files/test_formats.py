"""Files of any format through one door: the suffix decides, and the fields are the same."""

import polars as pl
import pytest

from pipeline.ingest.files import formats
from pipeline.ingest.tally import Quality
from tests.support.ingest import raw_file_at

FRAME = pl.DataFrame({"sku": ["007", "008"], "name": ["Red mug", None]})
FORMATS = {
    "x.csv": FRAME.write_csv,
    "x.tsv": lambda path: FRAME.write_csv(path, separator="\t"),
    "x.jsonl": FRAME.write_ndjson,
    "x.parquet": FRAME.write_parquet,
}


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.parquet", "parquet"),
        ("a.csv", ","),
        ("a.csv.gz", ","),
        ("a.tsv", "\t"),
        ("a.jsonl", "json"),
        ("a.ndjson.gz", "json"),
        ("a.json", "json"),
    ],
)
def test_the_suffix_says_the_format(raw_file, name, format) -> None:
    assert formats.format_of(raw_file(b"", name)) == format


@pytest.mark.parametrize("name", list(FORMATS))
def test_fields_records_and_tables_are_the_same_in_each_format(tmp_path, name) -> None:
    FORMATS[name](tmp_path / name)
    file, names = raw_file_at(tmp_path / name), ["sku", "name"]
    assert formats.field_names(file) == names
    assert list(formats.records(file, names, Quality(), 0.0)) == FRAME.to_dicts()
    assert pl.concat(formats.tables(file, names, Quality(), 0.0)).equals(FRAME)
    assert formats.absent(["name", "price", "sku", "brand"], file) == ["price", "brand"]


def test_a_field_that_only_a_late_record_of_json_lines_has_is_not_absent(raw_file) -> None:
    file = raw_file(b'{"a": 1}\n' * (formats.PEEKED + 1) + b'{"b": 1}\n', "x.jsonl")
    assert formats.field_names(file) == ["a"]
    assert formats.absent(["a", "b", "c"], file) == ["c"]
