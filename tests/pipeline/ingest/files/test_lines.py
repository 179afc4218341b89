"""Blocks hold whole lines whatever the compression and the block size, and damaged files are refused by name."""

import contextlib
import gzip
import zipfile

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from pipeline.ingest.files import lines as reading
from pipeline.ingest.files.delimited import header_of
from pipeline.ingest.files.json_lines import records
from pipeline.ingest.files.lines import FOREIGN, LineGuard, blocks
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
    assume(not data.startswith(tuple(FOREIGN)))
    parts = list(blocks(raw_file(data, packed=packed or data[:2] == b"\x1f\x8b"), size=size))
    assert b"".join(block.data for block in parts) == data.removeprefix(b"\xef\xbb\xbf")
    assert all(block.data.endswith(b"\n") for block in parts[:-1])
    number = 1
    for block in parts:
        assert block.first_line == number
        number += block.data.count(b"\n")


def test_line_break_in_quotes_does_not_end_a_block(raw_file) -> None:
    file = raw_file(b'a,"one\ntwo"\nb,"three\nfour"\n')
    assert [block.data for block in blocks(file, quoted=True, size=7)] == [b'a,"one\ntwo"\n', b'b,"three\nfour"\n']


def test_stray_quote_does_not_swallow_the_file(raw_file, monkeypatch) -> None:
    monkeypatch.setattr(reading, "MAX_LINE", 100)
    data = b'a,5" screen\n' + b"b,c\n" * 1000
    assert b"".join(block.data for block in blocks(raw_file(data), quoted=True, size=64)) == data


def test_unclosed_quote_costs_linear_time(raw_file) -> None:
    data = b'"' + b"b,c\n" * 500_000
    assert sum(block.lines for block in blocks(raw_file(data), quoted=True)) == 500_000


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


def test_a_zip_archive_is_refused_by_name_with_what_to_do(raw_file, tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("items.csv", "item_id\n1\n")
    file = raw_file((tmp_path / "a.zip").read_bytes(), "items.csv")
    with pytest.raises(UserError, match=r"items\.csv is a zip archive: unpack it; where it is a workbook \(\.xlsx\)"):
        header_of(file)


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


@pytest.mark.parametrize(("bad", "lines", "share"), [(11, 100, 0.01), (21, 2000, 0.01), (3, 3, 0.5)])
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
