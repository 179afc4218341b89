"""Ten million interactions in little memory: ids as dictionary codes (4 bytes), times in milliseconds."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.ingest.sources.base import MICROSECONDS_FROM, MILLISECONDS_FROM
from pipeline.ingest.tally import EXAMPLES, Quality
from schemas.tables import INTERACTIONS

Codes = NDArray[np.uint32]

_AS_DATES = (19_900_101, 20_991_231)
"""Numbers in this range may be dates from 1990 to 2099; as seconds, they would be times in August 1970."""
_LATEST = 4_102_444_800_000
"""2100-01-01 in milliseconds: a time from then on is an error."""
ROWS = 1 << 18
"""Rows of a published batch."""


def collect(batches: Iterable[pl.DataFrame], file: str, quality: Quality) -> pl.DataFrame:
    """All raw interactions in one frame, with ids as categoricals and times in milliseconds.

    Seconds, milliseconds and microseconds are told apart value by value; a time before 1970 or after 2099 becomes null.
    If all numbers look like 20240506, they are dates. Dates like 01/02/2024 are read month first if other dates of the
    file can only be month first and none can only be day first; else day first. Each of these is
    counted, except an order of day and month that is certain.

    Args:
        batches: with the columns of `sources.base.RAW_INTERACTIONS`.
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
    """Reads dates like 20240506, if all numbers of the file are such: as seconds, all would lie in August 1970."""
    numbers = frame["timestamp"] // 1000
    if numbers.null_count() == len(numbers) or not numbers.drop_nulls().is_between(*_AS_DATES).all():
        return frame
    dates = numbers.cast(pl.String).str.to_date("%Y%m%d", strict=False)
    times = dates.cast(pl.Datetime("ms")).cast(pl.Int64)
    is_date, is_lost = times.is_not_null(), times.is_null() & numbers.is_not_null()
    for rule, rows in (("timestamp_in_yyyymmdd", is_date.arg_true()), ("timestamp_implausible", is_lost.arg_true())):
        quality.add(file, rule, "repaired", len(rows), examples(frame, rows))
    return frame.with_columns(times.alias("timestamp"))


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
    frame = raw.to_frame().select(
        from_seconds.when(is_ms).then(time).otherwise(time // 1000).alias("ms"), is_ms.alias("is_ms")
    )
    in_ms = frame["is_ms"].arg_true()
    quality.add(file, "timestamp_in_milliseconds", "repaired", len(in_ms), examples(batch, in_ms))
    ms = frame["ms"].set((raw <= 0) | (frame["ms"] >= _LATEST), None)
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
