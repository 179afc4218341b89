"""Lines become records, or are counted; no bytes crash a parser, and none are ever evaluated."""

import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.ingest.files import json_lines
from pipeline.ingest.files.json_lines import as_text, parse_json, parse_literal
from pipeline.ingest.tally import Quality
from schemas.errors import UserError

many = settings(max_examples=300, deadline=None)
reuse_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(codec="utf-8"), max_size=20)
values = st.recursive(
    scalars | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(text, values, max_size=4)


@given(objects)
@many
def test_python_literal_reads_back_what_repr_wrote(record) -> None:
    assert parse_literal(repr(record).encode()) == record


@given(objects)
@many
def test_literal_reader_also_reads_json(record) -> None:
    assert parse_literal(json.dumps(record).encode()) == record


@given(st.binary(max_size=200))
@many
def test_any_bytes_give_a_record_or_a_value_error(line) -> None:
    for parse in (parse_json, parse_literal):
        with contextlib.suppress(ValueError):
            assert isinstance(parse(line), dict)


@given(st.text("{}[]()'\":,\\ -+.0e1uNoneTrj*\n", max_size=80))
@many
def test_nearly_literals_give_a_record_or_a_value_error(line) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_literal(line.encode()), dict)


@pytest.mark.parametrize(
    "line",
    [
        b"__import__('os').system('true')",
        b"{'a': __import__('os').getcwd()}",
        b"{'a': open('/etc/passwd').read()}",
        b"{'a': [x for x in (1,)]}",
        b"{'a': 9**9**9}",
        b"{'a': lambda: 0}",
    ],
)
def test_code_is_refused_not_run(line) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any reason
        parse_literal(line)


@pytest.mark.parametrize("opening", [b"[", b"(", b"{'a':", b'{"a":', b"-", b"1+", b"not "])
@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_deep_nesting_is_refused(opening, depth) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any reason
        parse_literal(b"{'x': " + opening * depth + b"}")


def test_overlong_literal_is_refused_unread() -> None:
    with pytest.raises(ValueError, match="longer than"):
        parse_literal(b"{'a': None, 'b': '" + b"x" * json_lines.MAX_LITERAL + b"'}")


def test_quotes_inside_strings_survive_the_fast_way() -> None:
    assert parse_literal(rb"""{'a': "Suess' puzzle", 'b': 'say "hi"', 'c': 'it\'s', 'd': None}""") == {
        "a": "Suess' puzzle",
        "b": 'say "hi"',
        "c": "it's",
        "d": None,
    }


def test_escapes_are_pythons_not_jsons() -> None:
    assert parse_literal(rb"{'a': 'x\/y\xe9\n'}") == {"a": "x\\/yé\n"}


def test_bad_lines_are_dropped_and_counted_by_number(raw_file) -> None:
    lines = [b'{"id": "a"}', b"not a record", b"", b'{"id": "b"}', b"[1]", b'{"id": "c"', b'{"id": "d"}']
    quality = Quality()
    records = json_lines.records(raw_file(b"\n".join(lines), packed=True), quality, 0.5)
    assert [record["id"] for record in records] == ["a", "b", "d"]
    (row,) = quality.table().to_pylist()
    assert (row["count"], row["examples"]) == (3, ["line 2", "line 5", "line 6"])


def test_fast_columns_and_line_by_line_agree(raw_file) -> None:
    rows = [{"u": "a", "r": 5.0, "t": 12}, {"u": 7, "r": "4.5"}, {"u": None, "r": None, "t": "99"}, {"x": [1]}]
    good = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    names = ("u", "r", "t")
    (fast,) = json_lines.columns(raw_file(good), names, Quality(), 0.5)
    quality = Quality()
    (slow,) = json_lines.columns(raw_file(good + b"broken\n"), names, quality, 0.5)
    assert fast.equals(slow)
    assert fast.rows() == [("a", "5", "12"), ("7", "4.5", None), (None, None, "99"), (None, None, None)]
    assert quality.count("not_a_record") == 1


def test_a_file_cut_off_within_a_record_is_refused_wherever_the_cut_is(raw_file) -> None:
    whole = b"".join(json.dumps({"u": f"{number}", "t": {"é": [number]}}).encode() + b"\n" for number in range(30))
    last = whole.rindex(b"{", 0, whole.rindex(b"{"))
    for end in range(last + 1, len(whole) - 2):
        for read in (
            lambda file: list(json_lines.columns(file, ["u"], Quality(), 0.5)),
            lambda file: list(json_lines.records(file, Quality(), 0.5)),
            lambda file: list(json_lines.records(file, Quality(), 0.5, literal=True)),
        ):
            with pytest.raises(UserError, match=r"ends in the middle of a record, in line 30: .* Fetch it again"):
                read(raw_file(whole[:end]))
    quality = Quality()
    assert len(list(json_lines.records(raw_file(whole[:-1] + b"\n-- end of the export --"), quality, 0.5))) == 30
    assert quality.count("not_a_record") == 1


@given(st.binary(max_size=400))
@reuse_file
def test_any_file_gives_columns_or_a_user_error(raw_file, data) -> None:
    for read in (
        lambda: list(json_lines.columns(raw_file(data), ["a"], Quality(), 1.0)),
        lambda: list(json_lines.records(raw_file(data), Quality(), 1.0, literal=True)),
    ):
        with contextlib.suppress(UserError):
            read()


@given(scalars | text | st.floats() | st.just("\ud800"))
@many
def test_ids_as_text_are_valid_utf8_or_none(value) -> None:
    plain = as_text(value)
    assert plain is None or (plain and plain.encode().decode() == plain)


def test_whole_numbers_as_ids_have_no_point() -> None:
    assert [as_text(v) for v in (7, 7.0, "7", True, None, "", [1], float("nan"))] == ["7", "7", "7"] + [None] * 5


def test_csv_that_is_called_json_is_told_by_its_first_line(raw_file) -> None:
    with pytest.raises(
        UserError, match=r"not one of the first 2 lines is a record, .* line 1 \(it looks like CSV: give"
    ):
        list(json_lines.records(raw_file(b"item_id,title\nA0,Cup\n", "x.jsonl"), Quality(), 1.0))


def test_one_object_over_several_lines_is_refused_though_a_line_of_it_is_an_object(raw_file) -> None:
    data = b'{\n  "products": [\n    {"item_id": "A0"}\n  ]\n}\n'
    with pytest.raises(
        UserError, match=r"is one JSON object over several lines; expected one JSON object per line, or"
    ):
        list(json_lines.records(raw_file(data, "x.json"), Quality(), 1.0))
