"""Times are read however people write them; dates become numbers that no unit can be mistaken for."""

import polars as pl
import pytest

from pipeline.ingest.files.times import times

MORNING = "2024-05-06T07:08:09.000000"


def read(*texts: str, time_format: str = "") -> list[str | None]:
    time = times(pl.Series(texts), time_format).time
    return time.cast(pl.Datetime("us")).dt.to_string("iso:strict").to_list()


@pytest.mark.parametrize(
    "text",
    [
        "2024-05-06 07:08:09 UTC",
        "2024-05-06T07:08:09Z",
        "2024-05-06 09:08:09 +02:00",
        "2024-05-06 07:08:09+00",
        "2024-05-06 07:08:09,000",
        "2024/05/06 7:08:09 AM",
        "6/5/2024 07:08:09 a.m.",
        "06.05.2024 07:08:09",
        "6 May 2024 07:08:09",
        "May 6th, 2024 at 7:08:09 AM",
        "06-May-2024 07:08:09",
        "Mon, 06 May 2024 07:08:09 +0000",
        "Mon, 06 May 2024 07:08:09 GMT",
        "Mon May  6 07:08:09 UTC 2024",
        "Mon May 06 2024 09:08:09 GMT+0200 (CEST)",
        "20240506T070809Z",
    ],
)
def test_one_moment_in_many_ways(text) -> None:
    assert read(text) == [MORNING]
    assert read("soon", text, "2024-05-06T07:08:09") == [None, MORNING, MORNING]


def test_dates_without_a_time_begin_the_day() -> None:
    midnight = "2024-05-06T00:00:00.000000"
    assert read("6 May 2024", "May 6, 2024", "2024-05-06", "06-May-2024") == [midnight] * 4


def test_fractions_of_seconds_and_afternoons_are_kept() -> None:
    assert read("2024-05-06 07:08:09,123", "5/6/2024 3:04 PM") == [
        "2024-05-06T07:08:09.123000",
        "2024-06-05T15:04:00.000000",
    ]


def test_a_zone_that_many_places_share_and_a_month_in_another_language_are_not_guessed() -> None:
    assert read("2024-05-06 07:08:09 EST", "06-Mai-2024", "06/13/24 x") == [None] * 3


def test_a_format_that_is_given_is_tried_first() -> None:
    assert read("06|05|2024 7h08", "06|05|2024 x", time_format="%d|%m|%Y %Hh%M") == ["2024-05-06T07:08:00.000000", None]
    assert read("05/06/2024", "2024-05-06", time_format="%m/%d/%Y") == ["2024-05-06T00:00:00.000000"] * 2
    assert read("06.05.2024 09:08 +0200", time_format="%d.%m.%Y %H:%M %z") == ["2024-05-06T07:08:00.000000"]
