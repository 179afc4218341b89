"""Ten million interactions in little memory: ids as dictionary codes (4 bytes), times in milliseconds."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.ingest.sources.base import MICROSECONDS_FROM, MILLISECONDS_FROM, NANOSECONDS_FROM
from pipeline.ingest.tally import EXAMPLES, Quality
from schemas.tables import INTERACTIONS

Codes = NDArray[np.uint32]

_AS_DATES = (19_900_101, 20_991_231)
"""Numbers in this range may be dates from 1990 to 2099; as seconds, they would be times in August 1970."""
_AS_DAYS = (25_569, 73_050)
"""Days since 1900 from 1970 to 2099; as seconds, they would be times of one day."""
_AS_YEARS = (1_970, 2_099)
_AS_DIGITS = (19_700_101_000_000, 20_991_231_235_959)
"""Numbers in this range are times like 20240506070809; as milliseconds, they would lie in the year 2594 or later."""
_LATEST = 4_102_444_800_000
"""2100-01-01 in milliseconds: a time from then on is an error."""
ROWS = 1 << 18
"""Rows of a published batch."""


def collect(batches: Iterable[pl.DataFrame], file: str, quality: Quality) -> pl.DataFrame:
    """All raw interactions in one frame, with ids as categoricals and times in milliseconds.

    Seconds, milliseconds, microseconds, nanoseconds and numbers like 20240506070809 are told apart value by value; a
    time before 1970 or after 2099 becomes null. If all numbers of the file (dates aside) look like 20240506, they are
    dates; if all look like 45413.5, days since 1900 as workbooks count them; if all look like 2024, years. Dates like
    01/02/2024 are read month first if other dates of the file can only be month first and none can only be day first;
    else day first. Each of these is counted, except an order of day and month that is certain.

    Args:
        batches: with the columns of `sources.base.RAW_INTERACTIONS`, and perhaps `sources.base.OPTIONAL`.
        file: name of the file, for the tally.
    """
    users, items = pl.Categories.random(), pl.Categories.random()
    parts = []
    for batch in batches:
        ids = pl.col("user_id").cast(pl.Categorical(users)), pl.col("item_id").cast(pl.Categorical(items))
        parts.append(batch.with_columns(*ids, _milliseconds(batch, file, quality).alias("timestamp")))
    frame = pl.concat(parts, how="diagonal", rechunk=True)
    return _in_date_order(_with_numbers_as_dates(frame, file, quality), file, quality)


def _with_numbers_as_dates(frame: pl.DataFrame, file: str, quality: Quality) -> pl.DataFrame:
    """Reads numbers that, as seconds, would all lie in January or August 1970, as what they look like."""
    fraction = frame["fraction"].fill_null(0.0) if "fraction" in frame.columns else 0
    is_date = frame["is_date"].fill_null(value=False) if "is_date" in frame.columns else None
    frame = frame.drop("fraction", "is_date", strict=False)
    numbers = frame["timestamp"] // 1000
    if is_date is not None:
        numbers = numbers.set(is_date, None)
    if numbers.null_count() == len(numbers):
        return frame
    for rule, limits, read in _NUMBERS:
        if not numbers.drop_nulls().is_between(*limits).all():
            continue
        times = read(numbers + fraction if rule == "timestamp_in_days_since_1900" else numbers)
        lost = (times.is_null() & numbers.is_not_null()).arg_true()
        converted = times.is_not_null().arg_true()
        quality.add(file, rule, "repaired", len(converted), examples(frame, converted))
        quality.add(file, "timestamp_implausible", "repaired", len(lost), examples(frame, lost))
        return frame.with_columns(frame["timestamp"].set(numbers.is_not_null(), None).fill_null(times))
    return frame


def _of_dates(numbers: pl.Series) -> pl.Series:
    """Milliseconds of 20240506."""
    return numbers.cast(pl.String).str.to_date("%Y%m%d", strict=False).cast(pl.Datetime("ms")).cast(pl.Int64)


def _of_days(numbers: pl.Series) -> pl.Series:
    """Milliseconds of days since 1899-12-30, to the second: a workbook's fractions are no finer."""
    return ((numbers - _AS_DAYS[0]) * 86_400).round().cast(pl.Int64) * 1000


def _of_years(numbers: pl.Series) -> pl.Series:
    """Milliseconds of the first of January."""
    return _of_dates(numbers * 10_000 + 101)


_NUMBERS: tuple[tuple[str, tuple[int, int], Callable[[pl.Series], pl.Series]], ...] = (
    ("timestamp_in_yyyymmdd", _AS_DATES, _of_dates),
    ("timestamp_in_days_since_1900", _AS_DAYS, _of_days),
    ("timestamp_in_years", _AS_YEARS, _of_years),
)
"""Rule → what all numbers of a file must lie between to be so → how they are read."""


def _in_date_order(frame: pl.DataFrame, file: str, quality: Quality) -> pl.DataFrame:
    """Swaps day and month if the file's other dates are month first; counts ambiguous dates if nothing decides."""
    if "date_order" not in frame.columns:
        return frame
    order, times = frame["date_order"], frame["timestamp"].cast(pl.Datetime("ms"))
    frame = frame.drop("date_order")
    either = ((order == "either") & (times.dt.day() != times.dt.month())).arg_true()
    certain = set(order.unique()) & {"day first", "month first"}
    if certain == {"month first"}:
        ambiguous, time = times.gather(either).to_frame("time"), pl.col("time")
        swapped = ambiguous.select(time.dt.replace(month=time.dt.day(), day=time.dt.month()))
        return frame.with_columns(times.scatter(either, swapped["time"]).cast(pl.Int64).alias("timestamp"))
    if not certain or len(certain) == 2:
        quality.add(file, "date_day_first_assumed", "kept", len(either), examples(frame, either))
    return frame


def _milliseconds(batch: pl.DataFrame, file: str, quality: Quality) -> pl.Series:
    raw = batch["timestamp"]
    if raw.null_count() == len(raw):
        return raw
    time = pl.col(raw.name)
    is_ms = (time >= MILLISECONDS_FROM) & (time < MICROSECONDS_FROM)
    from_seconds = pl.when(time < MILLISECONDS_FROM).then(time * 1000)
    scale = pl.when(time < NANOSECONDS_FROM).then(1000).otherwise(1_000_000)
    frame = raw.to_frame().select(
        from_seconds.when(is_ms).then(time).otherwise(time // scale).alias("ms"), is_ms.alias("is_ms")
    )
    ms, milli = frame["ms"], frame["is_ms"]
    if milli.any() and (digits := ms.is_between(*_AS_DIGITS)).any():
        texts = ms.set(~digits, None).cast(pl.String)
        ms = ms.set(digits, None).fill_null(texts.str.to_datetime("%Y%m%d%H%M%S", strict=False).dt.epoch("ms"))
        in_digits = digits.arg_true()
        quality.add(file, "timestamp_in_yyyymmddhhmmss", "repaired", len(in_digits), examples(batch, in_digits))
        milli &= ~digits
    in_ms = milli.arg_true()
    quality.add(file, "timestamp_in_milliseconds", "repaired", len(in_ms), examples(batch, in_ms))
    ms = ms.set((raw <= 0) | (ms >= _LATEST), None)
    lost = ms.is_null() & raw.is_not_null()
    values = tuple(str(value) for value in raw.filter(lost).head(EXAMPLES))
    quality.add(file, "timestamp_implausible", "repaired", int(lost.sum()), values)
    return ms


def codes(frame: pl.DataFrame) -> tuple[Codes, Codes]:
    """User and item code of each row. Codes number the ids in no stable order: only equality has a meaning."""
    users, items = (frame[name].to_physical().to_numpy() for name in ("user_id", "item_id"))
    return users, items


def examples(frame: pl.DataFrame, rows: pl.Series | NDArray[Any]) -> tuple[str, ...]:
    """The ids of the first few of these rows, which are given by number."""
    first = frame[rows[:EXAMPLES]]
    users, items = (first[name].cast(pl.String) for name in ("user_id", "item_id"))
    return tuple(f"{user} → {item}" for user, item in zip(users, items, strict=True))


def item_ids(frame: pl.DataFrame) -> set[str]:
    """Ids of all items with an interaction."""
    return set(frame["item_id"].unique().cast(pl.String))


def tables(frame: pl.DataFrame) -> Iterator[pa.Table]:
    """Interactions with their split as batches of the table `interactions`."""
    for batch in frame.iter_slices(ROWS):
        table = batch.select(
            pl.col("user_id", "item_id").cast(pl.String),
            "rating",
            pl.col("timestamp").cast(pl.Datetime("ms", "UTC")),
            pl.col("split").cast(pl.String),
        ).to_arrow()
        yield table.cast(INTERACTIONS)
