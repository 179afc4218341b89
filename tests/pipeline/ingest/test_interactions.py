"""Raw interactions in one frame: ids as codes, times in milliseconds whatever they were."""

import numpy as np
import polars as pl
import pytest

from pipeline.ingest import interactions
from pipeline.ingest.files.interaction_columns import Columns, raw_interactions
from pipeline.ingest.sources.base import SPLIT
from pipeline.ingest.tally import Quality
from schemas.tables import INTERACTIONS
from tests.support.ingest import SECOND, interaction_frame, run, times

COLUMNS = Columns("user", "item", "rating", "time")


def test_seconds_milliseconds_microseconds_and_nanoseconds_become_milliseconds() -> None:
    quality = Quality()
    raw = [SECOND, SECOND * 1000, SECOND * 1_000_000, None, 0, -5, 10**19 // 2, 99_999_999_999, SECOND * 10**9]
    frame = interaction_frame([("u", str(n), None, time) for n, time in enumerate(raw)], quality)
    assert frame["timestamp"].to_list() == [SECOND * 1000] * 3 + [None] * 5 + [SECOND * 1000]
    assert quality.count("timestamp_in_milliseconds") == 1
    assert quality.table().to_pylist()[0]["examples"] == ["u → 1"]
    assert quality.count("timestamp_implausible") == 4


def test_milliseconds_seconds_and_iso_times_are_told_apart(store, shop) -> None:
    rows = [["u0", "i0", 5, (SECOND + 500) * 1000], ["u1", "i1", 5, "2030-01-02T03:04:05"], ["u2", "i2", 5, "soon"]]
    ingested = run(store, shop(more_rows=rows))
    time_of = times(store, ingested)
    assert time_of["u0", "i0"].timestamp() == SECOND + 500
    assert time_of["u1", "i1"].isoformat() == "2030-01-02T03:04:05+00:00"
    assert (ingested.counts["timestamp_in_milliseconds"], ingested.counts["timestamp_unreadable"]) == (1, 1)


def test_dates_near_the_epoch_are_what_they_say(store, shop) -> None:
    rows = [["u9", "i0", 5, "1970-01-01T01:00:00"], ["u9", "i1", 5, "1971-06-01T00:00:00"]]
    time_of = times(store, run(store, shop(more_rows=rows), core_k=1))
    assert time_of["u9", "i0"].isoformat() == "1970-01-01T01:00:00+00:00"
    assert time_of["u9", "i1"].isoformat() == "1971-06-01T00:00:00+00:00"


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize(
    ("dates", "read", "assumed"),
    [
        (["01/02/2024", "13/02/2024", "02/02/2024"], ["2024-02-01", "2024-02-13", "2024-02-02"], []),
        (["1/2/2024", "2.2.2024", "02/13/2024 10:00"], ["2024-01-02", "2024-02-02", "2024-02-13"], []),
        (["01-02-2024", "02-02-2024", "03-02-2024"], ["2024-02-01", "2024-02-02", "2024-02-03"], ["u → 0", "u → 2"]),
        (["01/02/2024", "02/13/2024", "13/02/2024"], ["2024-02-01", "2024-02-13", "2024-02-13"], ["u → 0"]),
        (["2024-01-02", "02/13/2024", "45/13/2024"], ["2024-01-02", "2024-02-13", None], []),
    ],
)
def test_the_order_of_day_and_month_is_the_files_wherever_batches_end(raw_file, dates, read, assumed, cut) -> None:
    quality = Quality()
    batch = pl.DataFrame({"user": "u", "item": ["0", "1", "2"], "rating": 4.0, "time": dates})
    rows = raw_interactions([batch[:cut], batch[cut:]], COLUMNS, raw_file(b"", "x.csv"), quality)
    read_as = interactions.collect(rows, "x.csv", quality)["timestamp"].cast(pl.Datetime("ms"))
    assert read_as.dt.date().cast(pl.String).to_list() == read
    rules = {row["rule"]: row["examples"] for row in quality.table().to_pylist()}
    assert rules.pop("date_day_first_assumed", []) == assumed
    assert rules == ({"timestamp_unreadable": ["45/13/2024"]} if None in read else {})


@pytest.mark.parametrize("dtype", [pl.Int64, pl.Float64, pl.String])
def test_numbers_that_are_all_dates_are_read_as_dates(raw_file, dtype) -> None:
    numbers, quality = pl.Series("time", [20240506, 19991231, 20240230]).cast(dtype), Quality()
    batch = pl.DataFrame({"user": "u", "item": ["0", "1", "2"], "rating": 4.0, "time": numbers})
    frame = interactions.collect(raw_interactions([batch], COLUMNS, raw_file(b"", "x.csv"), quality), "x.csv", quality)
    assert frame["timestamp"].to_list() == [1714953600_000, 946598400_000, None]
    assert [(row["rule"], row["examples"]) for row in quality.table().to_pylist()] == [
        ("timestamp_in_yyyymmdd", ["u → 0", "u → 1"]),
        ("timestamp_implausible", ["u → 2"]),
    ]


def test_numbers_of_which_some_are_no_dates_are_seconds(raw_file) -> None:
    quality = Quality()
    batch = pl.DataFrame({"user": "u", "item": ["0", "1"], "rating": 4.0, "time": [20240506, 1714953600]})
    frame = interactions.collect(raw_interactions([batch], COLUMNS, raw_file(b"", "x.csv"), quality), "x.csv", quality)
    assert frame["timestamp"].to_list() == [20240506_000, 1714953600_000]


def collected(raw_file, times, quality) -> pl.DataFrame:
    batch = pl.DataFrame({"user": "u", "item": [str(n) for n in range(len(times))], "rating": 4.0, "time": times})
    rows = raw_interactions([batch[:1], batch[1:]], COLUMNS, raw_file(b"", "x.csv"), quality)
    return interactions.collect(rows, "x.csv", quality)["timestamp"].cast(pl.Datetime("ms")).dt.to_string("iso:strict")


@pytest.mark.parametrize(
    ("numbers", "first", "rule"),
    [
        (["45413.5", "45414", "45420.25"], "2024-05-01T12:00:00.000", "timestamp_in_days_since_1900"),
        ([45413.5, 45414.0, 45420.25], "2024-05-01T12:00:00.000", "timestamp_in_days_since_1900"),
        (["2024", "2019", "1999"], "2024-01-01T00:00:00.000", "timestamp_in_years"),
        (["20240506070809", "20240506070810", "1714979289"], "2024-05-06T07:08:09.000", "timestamp_in_yyyymmddhhmmss"),
        (["20240118", "2024-05-06", "2024-05-07"], "2024-01-18T00:00:00.000", "timestamp_in_yyyymmdd"),
    ],
)
def test_numbers_are_what_the_whole_column_says(raw_file, numbers, first, rule) -> None:
    quality = Quality()
    read = collected(raw_file, numbers, quality)
    assert read[0] == first
    assert read.null_count() == 0
    assert [row["rule"] for row in quality.table().to_pylist()] == [rule]


@pytest.mark.parametrize("numbers", [["45413.5", "1714979289"], ["2024", "2024-05-06", "1714979289"]])
def test_small_numbers_among_others_are_seconds(raw_file, numbers) -> None:
    quality = Quality()
    assert collected(raw_file, numbers, quality)[0].startswith("1970-01-01")
    assert quality.table().num_rows == 0


def test_codes_compare_equal_exactly_where_ids_do() -> None:
    frame = interaction_frame([("u", "a", None, None), ("v", "a", None, None), ("u", "b", None, None)])
    users, items = interactions.codes(frame)
    assert users[0] == users[2] != users[1]
    assert items[0] == items[1] != items[2]
    assert users.dtype == np.uint32


def test_published_batches_have_the_tables_columns_and_every_row(monkeypatch) -> None:
    monkeypatch.setattr(interactions, "ROWS", 2)
    frame = interaction_frame([("u", "a", 4.0, SECOND), ("v", "a", None, None), ("u", "b", 1.0, SECOND)])
    batches = list(interactions.tables(frame.with_columns(split=pl.Series(["train", "test", "valid"], dtype=SPLIT))))
    assert [len(batch) for batch in batches] == [2, 1]
    assert all(batch.schema == INTERACTIONS for batch in batches)
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert [(row["user_id"], row["item_id"], row["split"]) for row in rows] == [
        ("u", "a", "train"),
        ("v", "a", "test"),
        ("u", "b", "valid"),
    ]
    assert rows[0]["timestamp"].timestamp() == SECOND
