"""Blocks hold whole lines whatever the compression and the block size, and damaged files are refused by name."""

import bz2
import contextlib
import gzip
import io
import zipfile

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from pipeline.ingest.files import lines as reading
from pipeline.ingest.files.delimited import header_of, tables
from pipeline.ingest.files.json_lines import records
from pipeline.ingest.files.lines import LineGuard, blocks
from pipeline.ingest.files.streams import PACKED, foreign
from pipeline.ingest.tally import Quality
from schemas.errors import UserError

reuse_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


@given(
    lines=st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line)),
    size=st.integers(1, 64),
    packed=st.booleans(),
)
@example(lines=[b"\xef\xbb\xbfone", b"two"], size=1, packed=False)
@reuse_file
def test_blocks_join_to_the_file_and_end_at_line_ends(raw_file, lines, size, packed) -> None:
    data = b"\n".join(lines)
    assume(not foreign(data) and not data.startswith(tuple(PACKED)) and b"\r" not in data and b"\0" not in data)
    parts = list(blocks(raw_file(data, packed=packed), size=size))
    assert b"".join(block.data for block in parts) == data.removeprefix(b"\xef\xbb\xbf")
    assert all(block.data.endswith(b"\n") for block in parts[:-1])
    number = 1
    for block in parts:
        assert block.first_line == number
        number += block.data.count(b"\n")


def test_truncated_gzip_is_refused_with_its_name_and_what_to_do(raw_file) -> None:
    whole = gzip.compress(b'{"a": 1}\n' * 10_000)
    file = raw_file(whole[: len(whole) // 2], "meta_X.json.gz")
    with pytest.raises(UserError, match=r"meta_X\.json\.gz is a damaged or truncated gzip file.*Download it again"):
        list(blocks(file))


@given(damage=st.integers(2, 200), value=st.integers(0, 255))
@reuse_file
def test_damaged_gzip_gives_its_lines_or_a_user_error(raw_file, damage, value) -> None:
    whole = bytearray(gzip.compress(b"".join(b'{"a": %d}\n' % n for n in range(100)), mtime=0))
    whole[damage % len(whole)] = value
    with contextlib.suppress(UserError):
        list(blocks(raw_file(bytes(whole))))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_refused_by_name_with_what_to_do(raw_file, encoding, packed) -> None:
    file = raw_file("\ufeffa,b\n1,2\n".removeprefix("\ufeff" * (encoding == "utf-16")).encode(encoding), packed=packed)
    for read in (header_of, lambda file: list(records(file, Quality(), 1.0))):
        with pytest.raises(UserError, match=r"x\.json is UTF-16 .*expected UTF-8: convert it with `iconv -f UTF-16"):
            read(file)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["a.csv", "b.csv"], r"items\.csv is a zip archive of 2 files, expected one: unpack it"),
        (["[Content_Types].xml", "xl/workbook.xml"], r"items\.csv is a workbook \(\.xlsx\): save it as CSV in UTF-8"),
    ],
)
def test_an_archive_of_several_files_and_a_workbook_are_refused_with_what_to_do(
    raw_file, tmp_path, members, message
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in members:
            archive.writestr(name, "item_id\n1\n")
    file = raw_file((tmp_path / "a.zip").read_bytes(), "items.csv")
    with pytest.raises(UserError, match=message):
        header_of(file)


def zipped(data: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._items.csv", b"x")
        archive.writestr("items.csv", data)
    return packed.getvalue()


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, pa.Codec("zstd").compress, zipped])
def test_a_packed_file_is_known_by_its_content(raw_file, pack) -> None:
    data = b"".join(b"%d,thing\n" % n for n in range(5000))
    packed = pack(data)
    file = raw_file(packed if isinstance(packed, bytes) else packed.to_pybytes(), "x.csv")
    assert b"".join(block.data for block in blocks(file, size=1000)) == data
    assert header_of(file) == ["0", "thing"]


@pytest.mark.parametrize("pack", [bz2.compress, pa.Codec("zstd").compress, zipped])
def test_a_truncated_packed_file_is_refused_by_name(raw_file, pack) -> None:
    packed = bytes(pack(b"".join(b"%d,thing\n" % n for n in range(5000))))
    with pytest.raises(UserError, match=r"x\.csv (is a damaged or truncated|cannot be unpacked)"):
        list(blocks(raw_file(packed[: len(packed) // 2], "x.csv")))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_named(raw_file, encoding) -> None:
    file = raw_file("item_id,title\n1,Caf\u00e9\n".encode(encoding), "x.csv")
    with pytest.raises(UserError, match=f"x.csv is {encoding.upper()} .*give `encoding: {encoding}`"):
        header_of(file)


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "shift_jis", "utf-8-sig"])
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_file_in_an_encoding_that_is_given_is_read_as_utf_8(raw_file, encoding, size) -> None:
    text = "item_id,title\n1,Stra\u00dfe\n" if encoding == "cp1252" else "item_id,title\n1,\u732b\n"
    parts = blocks(raw_file(text.encode(encoding)), encoding=encoding, size=size)
    assert b"".join(block.data for block in parts).decode() == text


def test_what_is_not_in_the_encoding_is_refused(raw_file) -> None:
    with pytest.raises(UserError, match=r"x\.json is not shift_jis: .*Give its `encoding`"):
        list(blocks(raw_file(b"a\xff\xfe"), encoding="shift_jis"))


def test_lines_that_end_in_carriage_returns_alone_are_lines(raw_file) -> None:
    assert [record["a"] for record in records(raw_file(b'{"a": 1}\r{"a": 2}\r'), Quality(), 0.0)] == [1, 2]
    frame = pl.concat(tables(raw_file(b"a,b\r1,2\r3,4\r", "x.csv"), Quality(), 0.0))
    assert frame.rows() == [("1", "2"), ("3", "4")]


def test_lines_of_another_encoding_are_never_dropped_in_a_short_file(raw_file) -> None:
    rows = "".join(f"A{n},Caf\u00e9 d\u00e9j\u00e0 vu {n}\n" if n < 3 else f"A{n},Thing\n" for n in range(8))
    with pytest.raises(UserError, match=r"x\.csv: 3 of 8 lines are not UTF-8.*Give `encoding: cp125"):
        list(tables(raw_file(f"item_id,title\n{rows}".encode("cp1252"), "x.csv"), Quality(), 0.01))
    with pytest.raises(UserError, match=r"x\.json: 1 of 2 lines are not UTF-8"):
        list(records(raw_file('{"a": "caf\u00e9"}\n'.encode("cp1252") + b'{"a": 1}\n'), Quality(), 0.01))


def test_endless_line_is_refused(raw_file, monkeypatch) -> None:
    monkeypatch.setattr(reading, "MAX_LINE", 100)
    with pytest.raises(UserError, match="line 2 is longer than"):
        list(blocks(raw_file(b"ok\n" + b"x" * 500), size=50))


def test_few_bad_lines_are_counted_with_examples(raw_file) -> None:
    quality = Quality()
    guard = LineGuard(raw_file(b""), quality, 0.01, "records")
    for line in (17, 20, 21, 22):
        guard.bad(line, "not JSON")
    guard.lines = 1000
    guard.check()
    guard.finish()
    (row,) = quality.table().to_pylist()
    assert row == {
        "source": "x.json",
        "rule": "not_a_record",
        "action": "dropped",
        "count": 4,
        "examples": ["line 17", "line 20", "line 21"],
    }


@pytest.mark.parametrize(("bad", "lines", "share"), [(11, 100, 0.01), (21, 2000, 0.01)])
def test_too_many_bad_lines_refuse_the_file(raw_file, bad, lines, share) -> None:
    guard = LineGuard(raw_file(b""), Quality(), share, "one JSON object per line")
    for line in range(bad):
        guard.bad(line + 1, "not JSON")
    guard.lines = lines
    with pytest.raises(UserError, match=rf"{bad} of the first .* line 1 \(not JSON\); expected one JSON object"):
        guard.check() or guard.finish()


def test_empty_file_is_refused(raw_file) -> None:
    with pytest.raises(UserError, match=r"x\.json is empty"):
        LineGuard(raw_file(b""), Quality(), 0.01, "records").finish()


def test_where_every_line_is_bad_nobody_is_told_to_allow_more_of_them(raw_file) -> None:
    guard = LineGuard(raw_file(b""), Quality(), 0.5, "one JSON object per line")
    for line in range(3):
        guard.bad(line + 1, "not JSON")
    guard.lines = 3
    with pytest.raises(UserError, match=r"not one of the first 3 lines is a record, .* line 1 \(not JSON\)") as refused:
        guard.finish()
    assert "max_bad_share" not in str(refused.value)


@pytest.mark.parametrize(
    ("beginning", "what"),
    [
        (b"\n<!DOCTYPE html>\n<html>", "is a web page"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "is XML"),
        (b"SQLite format 3\0", "is an SQLite database: export its tables as CSV"),
        (b"\x80\x04\x95\x1a", "is a Python pickle, which is never opened"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS"),
        (b"\xd0\xcf\x11\xe0", "is an old workbook"),
        (b"PK\x05\x06" + bytes(18), "is an empty zip archive"),
    ],
)
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_a_file_of_another_kind_is_told_by_its_first_bytes(raw_file, beginning, what, name) -> None:
    with pytest.raises(UserError, match=rf"x\.\w+ {what}"):
        list(blocks(raw_file(beginning, name)))
