"""Delimited files: quotes, ragged rows, bytes that are no text."""

import contextlib
import csv
import io
from functools import partial
from unittest import mock

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.ingest.files import delimited
from pipeline.ingest.files.delimited import MAX_FIELD, header_of, tables
from pipeline.ingest.files.lines import blocks
from pipeline.ingest.tally import Quality
from schemas.errors import UserError

reuse_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
cells = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\ufeff"), max_size=12)


def read(file, quality=None, **options) -> pl.DataFrame:
    return pl.concat(tables(file, quality or Quality(), 0.5, **options))


@given(st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=8))
@reuse_file
def test_what_csv_wrote_is_read_back(raw_file, rows) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([("a", "b", "c"), *rows])
    frame = read(raw_file(out.getvalue().encode(), "x.csv"))
    assert frame.columns == ["a", "b", "c"]
    assert [tuple(cell or "" for cell in row) for row in frame.rows()] == rows


def test_ragged_row_is_counted_and_the_rest_is_read(raw_file) -> None:
    quality = Quality()
    frame = read(raw_file(b"a,b\n1,2\n3,4,5\n6,7\n", "x.csv"), quality)
    assert frame.rows() == [("1", "2"), ("6", "7")]
    assert quality.table().to_pylist()[0]["examples"] == ["line 3"]


@pytest.mark.parametrize(
    "rows",
    [
        b"1,2\n3\n5,6\n",
        b"3\n1,2\n5,6\n",
        b"1,2\n5,6\n3\n",
        b'"1",2\n3\n5,6\n7,"a\nb"\n',
        b'1,"2"\n5,6\n3\n',
    ],
)
def test_a_short_row_is_counted_wherever_it_stands(raw_file, rows) -> None:
    quality = Quality()
    frame = read(raw_file(b"a,b\n" + rows, "x.csv"), quality)
    assert frame.rows()[:2] == [("1", "2"), ("5", "6")]
    assert quality.count("not_a_record") == 1


@pytest.mark.parametrize("stray", [b'"great', b'"great" thing', b'a "great', b'5" pipe'])
@pytest.mark.parametrize("twice", [False, True])
def test_a_stray_quote_costs_its_own_row_at_most(raw_file, stray, twice) -> None:
    lines = [b"%d,thing %d" % (n, n) for n in range(500)]
    for place in (10, 300)[: 1 + twice]:
        lines[place] = b"%d,%s" % (place, stray)
    quality = Quality()
    frame = read(raw_file(b"a,b\n" + b"\n".join(lines), "x.csv"), quality)
    assert len(frame) + quality.count("not_a_record") == 500
    assert quality.count("not_a_record") <= 2
    others = {(str(n), f"thing {n}") for n in range(500) if n not in (10, 300)}
    assert others <= set(frame.rows())


@pytest.mark.parametrize("width", [2, 3])
@pytest.mark.parametrize("last", [11, 300])
def test_rows_hidden_between_two_quotes_that_pair_are_counted(raw_file, width, last) -> None:
    tail = b",x" * (width - 2)
    lines = [b"%d,thing %d%s" % (n, n, tail) for n in range(500)]
    lines[10], lines[last] = b'10,"great' + tail, b'%d,5"%s' % (last, tail)
    quality = Quality()
    frame = read(raw_file(b"a,b,c"[: 2 * width - 1] + b"\n" + b"\n".join(lines), "x.csv"), quality)
    assert len(frame) == 500 - (last - 10)
    assert quality.count("quoted_line_like_a_row") == last - 10


def test_every_line_of_a_row_of_another_length_is_bad(raw_file) -> None:
    quality = Quality()
    rows = b"".join(b"%d,2,3\n" % n for n in range(20))
    frame = read(raw_file(b'a,b,c\n1,"x,y\n7,8,9\nz",3,4\n' + rows, "x.csv"), quality)
    assert len(frame) == 20
    assert quality.count("not_a_record") == 3


def test_a_text_of_several_lines_stays_whole_and_uncounted(raw_file) -> None:
    quality = Quality()
    frame = read(raw_file(b'a,b,c\n1,"Soft, warm.\nRed.\n",3\n4,5,6\n', "x.csv"), quality)
    assert frame.rows() == [("1", "Soft, warm.\nRed.\n", "3"), ("4", "5", "6")]
    assert quality.table().num_rows == 0


def test_row_that_is_not_text_is_counted(raw_file) -> None:
    quality = Quality()
    frame = read(raw_file(b"a,b\n1,\xff\xfe\n6,7\n", "x.csv"), quality)
    assert frame.rows() == [("6", "7")]
    assert quality.count("not_a_record") == 1


def test_headerless_tabs_byte_order_mark_and_windows_line_ends(raw_file) -> None:
    assert read(raw_file(b"1\t2\n", "x.tsv"), header=("a", "b"), separator="\t").rows() == [("1", "2")]
    assert read(raw_file(b"\xef\xbb\xbfa,b\r\n1,2\r\n", "x.csv")).to_dicts() == [{"a": "1", "b": "2"}]


def test_header_alone_gives_no_rows(raw_file) -> None:
    assert read(raw_file(b"a,b\n", "x.csv")).shape == (0, 2)
    assert header_of(raw_file(b"a,b\n", "x.csv")) == ["a", "b"]


def test_repeated_column_and_empty_file_are_refused(raw_file) -> None:
    with pytest.raises(UserError, match="names a column twice"):
        read(raw_file(b"a,a\n1,2\n", "x.csv"))
    with pytest.raises(UserError, match="is empty"):
        read(raw_file(b"", "x.csv"))


fields = st.text(st.sampled_from('ab\u00e9\u2028",\\\n\r \ufffd\ufeff'), max_size=6)
written = st.one_of(
    fields.map(lambda text: '"' + text.replace('"', '""') + '"'),  # as csv writes it
    fields,  # stray quotes, separators and line ends included
    fields.map(lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'),  # as Spark and MySQL write it
    st.sampled_from(["1", "plain", ""]),
)
ends = st.sampled_from(["\n", "\n", "\r\n", "\r"])


@given(
    rows=st.lists(st.tuples(st.lists(written, min_size=1, max_size=4), ends), max_size=8),
    end=ends,
    mark=st.booleans(),
    size=st.sampled_from([1, 5, 1 << 20]),
)
@settings(reuse_file, max_examples=400)
def test_every_row_is_as_csv_reads_it_or_counted(raw_file, rows, end, mark, size) -> None:
    text = f"a,b{end}good,row{end}" + "".join(",".join(row) + row_end for row, row_end in rows)
    quality = Quality()
    file = raw_file(("\ufeff" * mark + text).encode(), "x.csv")
    with mock.patch.object(delimited, "blocks", partial(blocks, size=size)):
        frame = pl.concat(tables(file, quality, 1.0))
    read = [tuple(value or "" for value in row) for row in frame.rows()]
    assert read == strict_rows(text)


def strict_rows(text: str) -> list[tuple[str, ...]]:
    """The rows of two fields that csv reads; after a row that it refuses, from the next line on."""
    lines = list(io.StringIO(text, newline=""))
    rows, start = [], 0
    while start < len(lines):
        reader = csv.reader(lines[start:], strict=True)
        first = start
        try:
            for row in reader:
                rows.append(row)
                start = first + reader.line_num
        except csv.Error:
            start += 1
    return [tuple(row) for row in rows[1:] if len(row) == 2]


def test_the_first_row_after_a_header_with_a_lone_carriage_return_is_kept(raw_file) -> None:
    assert read(raw_file(b"a,b\r1,2\n3,4\n", "x.csv")).rows() == [("1", "2"), ("3", "4")]


@pytest.mark.parametrize("last", [rb'"say \"hi\" now"', rb'"c, \"d\", e"', b'"a" b "c"'])
def test_stray_quotes_in_the_last_field_are_counted_like_in_any_other(raw_file, last) -> None:
    quality = Quality()
    frame = read(raw_file(b"a,b\n0,%s\n1,fine\n" % last, "x.csv"), quality)
    assert frame.rows() == [("1", "fine")]
    assert quality.count("not_a_record") == 1


@pytest.mark.parametrize(
    "bad", [b'Z,"Best" pan,x', b'Z,"' + b"x" * (MAX_FIELD + 1) + b'",x', b"Z,\xff,x", b'Z,"open,x']
)
def test_a_bad_row_costs_itself_and_no_row_of_several_lines(raw_file, bad) -> None:
    rows = [b'%d,Thing,"line one\nline two"' % n if n % 4 == 0 else b"%d,Thing,plain" % n for n in range(400)]
    quality = Quality()
    frame = read(raw_file(b"a,b,c\n" + b"\n".join([*rows, bad, *rows]), "x.csv"), quality)
    assert len(frame) == 800
    assert [(row["rule"], row["examples"]) for row in quality.table().to_pylist()] == [("not_a_record", ["line 502"])]


def test_a_long_field_and_a_replacement_character_are_text(raw_file) -> None:
    quality = Quality()
    long = "x" * 200_000
    frame = read(raw_file(f'a,b\n1,"{long}"\n2,\ufffd "x"\n'.encode(), "x.csv"), quality)
    assert frame.rows() == [("1", long), ("2", '\ufffd "x"')]
    assert quality.table().num_rows == 0


def test_an_inch_mark_does_not_end_a_block_within_a_field(raw_file) -> None:
    rows = b"".join(b'%d,5" pipe,"two\nlines"\n' % n for n in range(50))
    file, quality = raw_file(b"a,b,c\n" + rows, "x.csv"), Quality()
    with mock.patch.object(delimited, "blocks", partial(blocks, size=64)):
        frame = pl.concat(tables(file, quality, 0.0))
    assert frame["c"].to_list() == ["two\nlines"] * 50
    assert quality.table().num_rows == 0


def test_columns_that_nobody_asked_for_may_be_nameless_or_repeated(raw_file) -> None:
    file = raw_file(b"item_id,title,,,x,x\nA0,T,,,1,2\n", "x.csv")
    assert read(file, names=["item_id", "title"])["title"].to_list() == ["T"]
    assert header_of(file) == ["item_id", "title", "x", "x"]
    with pytest.raises(UserError, match="names a column twice"):
        read(file, names=["item_id", "x"])


def test_a_file_of_a_few_bad_rows_alone_is_refused(raw_file) -> None:
    with pytest.raises(UserError, match="not one of the first 2 lines is a record"):
        list(tables(raw_file(b"a,b\n1\n2\n", "x.csv"), Quality(), 0.01))


@given(st.binary(max_size=300), st.sampled_from([None, ("a", "b")]))
@reuse_file
def test_any_bytes_give_rows_or_a_user_error(raw_file, data, header) -> None:
    with contextlib.suppress(UserError):
        assert read(raw_file(data, "x.csv"), header=header).width
