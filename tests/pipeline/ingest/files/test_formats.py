"""Files of any format through one door: the suffix decides, and the fields are the same."""

import codecs
import gzip
from pathlib import Path

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


def parts_of(folder: Path, name: str) -> formats.Parts:
    """All files below a folder as parts, by their paths within what holds it, sorted."""
    files = sorted(file for file in (folder / name).rglob("*") if file.is_file())
    names = [str(file.relative_to(folder)) for file in files]
    parts = (formats.RawFile(part, file, "", str(file)) for part, file in zip(names, files, strict=True))
    return formats.Parts(name, folder / name, "", name, tuple(parts))


def write_part(path: Path, frame: pl.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write = {".csv": frame.write_csv, ".jsonl": frame.write_ndjson, ".parquet": frame.write_parquet}
    write[path.suffix](path)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_parts_may_lack_columns_or_have_them_in_another_order(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / f"items.{suffix}"
    write_part(folder / f"part-0.{suffix}", pl.DataFrame({"sku": ["1"], "name": ["Mug"]}))
    write_part(folder / f"part-1.{suffix}", pl.DataFrame({"brand": ["Acme"], "name": ["Cup"], "sku": ["2"]}))
    write_part(folder / f"part-2.{suffix}", pl.DataFrame({"sku": ["3"]}))
    file, names = parts_of(tmp_path, folder.name), ["sku", "name", "brand"]
    assert formats.absent(names, file) == []
    rows = [("1", "Mug", None), ("2", "Cup", "Acme"), ("3", None, None)]
    records = list(formats.records(file, names, Quality(), 0.0))
    assert [tuple(record.get(name) for name in names) for record in records] == rows
    tables = [frame.select(names) for frame in formats.tables(file, names, Quality(), 0.0)]
    assert pl.concat(tables).rows() == rows


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_columns_of_hive_partitions_are_those_of_their_folders(tmp_path: Path, suffix: str) -> None:
    folders = ["brand=Acme", "brand=O%27Neill%20%2F%20Co%3D", "brand=__HIVE_DEFAULT_PARTITION__"]
    for number, name in enumerate(folders):
        part = tmp_path / f"items.{suffix}" / name / "year=2024" / f"part-0.{suffix}"
        write_part(part, pl.DataFrame({"sku": [f"{number}"]}))
    within = pl.DataFrame({"sku": ["3"], "brand": ["its own"]})
    write_part(tmp_path / f"items.{suffix}" / "brand=other" / f"part-0.{suffix}", within)
    file, names = parts_of(tmp_path, f"items.{suffix}"), ["sku", "brand", "year"]
    assert set(formats.field_names(file)) == set(names)
    rows = {("0", "Acme", "2024"), ("1", "O'Neill / Co=", "2024"), ("2", None, "2024"), ("3", "its own", None)}
    records = formats.records(file, names, Quality(), 0.0)
    assert {tuple(record.get(name) for name in names) for record in records} == rows
    tables = [frame.select(names) for frame in formats.tables(file, names, Quality(), 0.0)]
    assert set(pl.concat(tables).rows()) == rows


def test_a_field_of_null_has_the_value_that_the_folders_tell(tmp_path: Path) -> None:
    write_part(tmp_path / "x.jsonl" / "brand=Acme" / "part-0.jsonl", pl.DataFrame({"sku": ["1"], "brand": [None]}))
    file, names, rows = parts_of(tmp_path, "x.jsonl"), ["sku", "brand"], [{"sku": "1", "brand": "Acme"}]
    assert list(formats.records(file, names, Quality(), 0.0)) == rows
    assert pl.concat(formats.tables(file, names, Quality(), 0.0)).to_dicts() == rows


@pytest.mark.parametrize(
    ("suffix", "content"), [("csv", b"sku,name\n1,Mug\n"), ("jsonl", b'{"sku": "1", "name": "Mug"}\n')]
)
@pytest.mark.parametrize("nothing", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
@pytest.mark.parametrize("packed", [False, True])
def test_parts_of_nothing_are_passed_over(
    tmp_path: Path, suffix: str, content: bytes, nothing: bytes, packed: bool
) -> None:
    """Spark leaves them where a task had no rows, Windows with a byte order mark."""
    folder = tmp_path / f"items.{suffix}"
    folder.mkdir()
    end = ".gz" if packed else ""
    for number, data in enumerate((nothing, content, nothing)):
        (folder / f"part-{number}.{suffix}{end}").write_bytes(gzip.compress(data) if packed else data)
    file = parts_of(tmp_path, folder.name)
    assert formats.field_names(file) == ["sku", "name"]
    assert list(formats.records(file, ["sku", "name"], Quality(), 0.0)) == [{"sku": "1", "name": "Mug"}]
    assert not formats.is_empty(file)
    assert formats.is_empty(formats.Parts(file.name, file.path, "", "", file.parts[::2]))
