"""Text columns become typed interactions; what cannot be read is counted, never guessed."""

import contextlib

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.ingest.files.interaction_columns import Columns, Reading, raw_interactions
from pipeline.ingest.sources.base import RAW_INTERACTIONS
from pipeline.ingest.tally import Quality
from schemas.errors import UserError

reuse_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
COLUMNS = Columns("user", "item", "rating", "time")


def typed(raw_file, rows, quality=None, reading=None) -> pl.DataFrame:
    batch = pl.DataFrame(rows, schema=dict.fromkeys(COLUMNS.present().values(), pl.String), orient="row")
    return pl.concat(raw_interactions([batch], COLUMNS, raw_file(b"", "x.csv"), quality or Quality(), reading))


def test_mixed_formats_of_time_are_each_read(raw_file) -> None:
    times = [
        "1714979289",
        "1714979289.7",
        "2024-05-06T07:08:09Z",
        "2024-05-06",
        "2024-05-06 09:08:09+02:00",
        "soon",
        None,
    ]
    quality = Quality()
    frame = typed(raw_file, [("u", "i", None, time) for time in times], quality)
    micro, day = 1714979289_000_000, 1714953600_000_000
    assert frame["timestamp"].to_list() == [1714979289, 1714979289_700, micro, day, micro, None, None]
    assert quality.table().to_pylist() == [
        {"source": "x.csv", "rule": "timestamp_unreadable", "action": "repaired", "count": 1, "examples": ["soon"]}
    ]


def test_ids_are_trimmed_and_rows_without_them_dropped(raw_file) -> None:
    quality = Quality()
    rows = [(" u ", "i", "5", "1"), ("u2", "  ", "5", "1"), (None, "i2", "5", "1"), ("u3", "i3", "five", "1")]
    frame = typed(raw_file, rows, quality)
    assert frame.rows() == [("u", "i", 5.0, 1), ("u3", "i3", None, 1)]
    assert {(row["rule"], tuple(row["examples"])) for row in quality.table().to_pylist()} == {
        ("interaction_without_user", ("i2",)),
        ("interaction_without_item", ("u2",)),
        ("rating_unreadable", ("five",)),
    }


def test_blanks_around_numbers_and_dates_are_dropped(raw_file) -> None:
    quality = Quality()
    frame = typed(raw_file, [("u", "i", " 4.0", "\t123 "), ("u", "i", "5 ", " 2024-05-06")], quality)
    assert frame.select("rating", "timestamp").rows() == [(4.0, 123), (5.0, 1714953600_000_000)]
    assert quality.table().num_rows == 0


def test_words_that_stand_for_nothing_are_no_ids_ratings_or_times(raw_file) -> None:
    quality = Quality()
    rows = [("u", "i", "NULL", "nan"), ("nan", "i", "5", "1"), ("u", "\\N", "5", "1"), (" NULL ", "i", "5", "1")]
    assert typed(raw_file, rows, quality).rows() == [("u", "i", None, None)]
    assert {row["rule"]: row["count"] for row in quality.table().to_pylist()} == {
        "interaction_without_user": 2,
        "interaction_without_item": 1,
        "rating_missing_word": 1,
        "timestamp_missing_word": 1,
    }
    every_word = Reading(missing=())
    assert typed(raw_file, [("nan", "NA", "5", "1")], reading=every_word).rows() == [("nan", "NA", 5.0, 1)]


def test_a_column_of_which_nothing_can_be_read_is_refused_if_it_is_mapped_and_else_warned_of(raw_file, caplog) -> None:
    rows = [("u", str(n), ("view", "cart", "purchase")[n % 3], None) for n in range(96)]
    with pytest.raises(
        UserError, match=r"none of 96 ratings in rating can be read \(view, cart, purchase\).*rating_val"
    ):
        typed(raw_file, rows)
    assert typed(raw_file, rows, reading=Reading(mapped=()))["rating"].null_count() == 96
    assert "none of 96 ratings in rating can be read (view, cart, purchase)" in caplog.text
    words = Reading(rating_values={"View": 1, "cart": 2, "purchase": 3})
    assert typed(raw_file, rows, reading=words)["rating"].to_list() == [1.0, 2.0, 3.0] * 32


def test_times_of_one_day_in_1970_are_not_believed(raw_file) -> None:
    rows = [("u", str(n), None, str(n + 1)) for n in range(20)]
    with pytest.raises(UserError, match=r"all 20 times in time would lie in one day of 1970, e\.g\. 1 and 20"):
        typed(raw_file, rows)
    quality = Quality()
    typed(raw_file, rows, quality, Reading(mapped=()))
    assert quality.count("timestamps_of_one_day_in_1970") == 20


def test_a_few_unreadable_values_neither_refuse_nor_warn(raw_file, caplog) -> None:
    typed(raw_file, [("u", str(n), "5" if n else "five", None) for n in range(30)])
    assert not caplog.records


def test_file_without_any_ids_is_refused(raw_file) -> None:
    with pytest.raises(UserError, match=r"x\.csv: none of 1 rows has both a user \(user\) and an item \(item\)"):
        typed(raw_file, [("u", None, "5", "1")])


cells = st.none() | st.text(max_size=12) | st.from_regex(r"-?[0-9]{1,25}(\.[0-9]+)?(e[0-9]{1,3})?", fullmatch=True)


@given(st.lists(st.tuples(cells, cells, cells, cells), max_size=6))
@reuse_file
def test_any_text_gives_typed_rows_or_a_user_error(raw_file, rows) -> None:
    clean = [tuple(c and c.encode(errors="replace").decode() for c in row) for row in rows]
    with contextlib.suppress(UserError):
        frame = typed(raw_file, clean)
        assert dict(frame.select(*RAW_INTERACTIONS).schema) == RAW_INTERACTIONS
        assert frame["user_id"].null_count() == frame["item_id"].null_count() == 0
