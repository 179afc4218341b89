"""Delimited files: quotes, ragged rows, bytes that are no text."""

import contextlib
import csv
import io

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.ingest.files.delimited import header_of, tables
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


@given(st.binary(max_size=300), st.sampled_from([None, ("a", "b")]))
@reuse_file
def test_any_bytes_give_rows_or_a_user_error(raw_file, data, header) -> None:
    with contextlib.suppress(UserError):
        assert read(raw_file(data, "x.csv"), header=header).width
