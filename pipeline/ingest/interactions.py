"""Ten million interactions in little memory: ids as dictionary codes, rules as masks over them."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.ingest.sources.base import MICROSECONDS_FROM, MILLISECONDS_FROM
from pipeline.ingest.tally import EXAMPLES, Quality

Codes = NDArray[np.uint32]

_AS_DATES = (19_900_101, 20_991_231)
"""Numbers between these may be dates of 1990 to 2099; as seconds, they are times in August 1970."""
_LATEST = 4_102_444_800_000
"""2100-01-01 in milliseconds: a later time is an error."""


def collect(batches: Iterable[pl.DataFrame], source: str, quality: Quality) -> pl.DataFrame:
    """All raw interactions with ids as categoricals (4 bytes each) and times in milliseconds.

    Seconds and milliseconds (and microseconds) are told apart value by value; a time before 1970 or after 2099 becomes
    null. Numbers that all look like 20240506 are dates. Texts as 01/02/2024 are month first where others of the file
    show that and none the contrary, else day first. All of it is counted, but for an order that is certain.
    """
    users, items = pl.Categories.random(), pl.Categories.random()
    parts = []
    for batch in batches:
        part = batch.with_columns(
            pl.col("user_id").cast(pl.Categorical(users)),
            pl.col("item_id").cast(pl.Categorical(items)),
            _milliseconds(batch, source, quality).alias("timestamp"),
        )
        if "split" in part.columns:
            part = part.with_columns(pl.col("split").cast(pl.Enum(["train", "valid", "test"])))
        parts.append(part)
    frame = pl.concat(parts, how="diagonal", rechunk=True)
    return _in_date_order(_with_numbers_as_dates(frame, source, quality), source, quality)


def _with_numbers_as_dates(frame: pl.DataFrame, source: str, quality: Quality) -> pl.DataFrame:
    """Of the whole file: as seconds, its times would all lie in twelve days of August 1970."""
    numbers = frame["timestamp"] // 1000
    if numbers.null_count() == len(numbers) or not numbers.drop_nulls().is_between(*_AS_DATES).all():
        return frame
    dates = numbers.cast(pl.String).str.to_date("%Y%m%d", strict=False)
    times = dates.cast(pl.Datetime("ms")).cast(pl.Int64)
    read, lost = times.is_not_null(), times.is_null() & numbers.is_not_null()
    for rule, rows in (("timestamp_in_yyyymmdd", read.arg_true()), ("timestamp_implausible", lost.arg_true())):
        quality.add(source, rule, "repaired", len(rows), examples(frame, rows))
    return frame.with_columns(times.alias("timestamp"))


def _in_date_order(frame: pl.DataFrame, source: str, quality: Quality) -> pl.DataFrame:
    """Days and months exchanged where the file's other dates are month first; counted where nothing decides."""
    if "date_order" not in frame.columns:
        return frame
    order, times = frame["date_order"], frame["timestamp"].cast(pl.Datetime("ms"))
    frame = frame.drop("date_order")
    either = ((order == "either") & (times.dt.day() != times.dt.month())).arg_true()
    certain = set(order.unique()) & {"day first", "month first"}
    if certain == {"month first"}:
        there = times.gather(either).to_frame("time")
        turned = there.select(pl.col("time").dt.replace(month=pl.col("time").dt.day(), day=pl.col("time").dt.month()))
        return frame.with_columns(times.scatter(either, turned["time"]).cast(pl.Int64).alias("timestamp"))
    if not certain or len(certain) == 2:
        quality.add(source, "date_day_first_assumed", "kept", len(either), examples(frame, either))
    return frame


def _milliseconds(batch: pl.DataFrame, source: str, quality: Quality) -> pl.Series:
    raw = batch["timestamp"]
    if raw.null_count() == len(raw):
        return raw
    time = pl.col(raw.name)
    frame = raw.to_frame().select(
        pl.when(time < MILLISECONDS_FROM).then(time * 1000)
        .when(time < MICROSECONDS_FROM).then(time)
        .otherwise(time // 1000).alias("ms"),
        ((time >= MILLISECONDS_FROM) & (time < MICROSECONDS_FROM)).alias("was_ms"),
    )  # fmt: skip
    were_ms = frame["was_ms"].arg_true()
    quality.add(source, "timestamp_in_milliseconds", "repaired", len(were_ms), examples(batch, were_ms))
    ms = frame["ms"].set((raw <= 0) | (frame["ms"] >= _LATEST), None)
    lost = ms.is_null() & raw.is_not_null()
    values = tuple(str(value) for value in raw.filter(lost).head(EXAMPLES))
    quality.add(source, "timestamp_implausible", "repaired", int(lost.sum()), values)
    return ms


def known_items(frame: pl.DataFrame, known: set[str], source: str, quality: Quality) -> pl.DataFrame:
    """Without the interactions whose item is not in the catalogue; one example an item."""
    items = frame["item_id"].unique()
    unknown = items.filter(~items.cast(pl.String).is_in(list(known)))
    if unknown.is_empty():
        return frame
    ok = ~frame["item_id"].to_physical().is_in(unknown.to_physical().implode())
    lost = frame.filter(~ok)["item_id"]
    ids = tuple(lost.unique(maintain_order=True).head(EXAMPLES).cast(pl.String))
    quality.add(source, "unknown_item", "dropped", len(lost), ids)
    return frame.filter(ok)


def latest_only(frame: pl.DataFrame, source: str, quality: Quality) -> pl.DataFrame:
    """One row for each user and item: the latest, the later row where times are equal, one with a time before none."""
    users, items = codes(frame)
    pairs = pl.Series((users.astype(np.uint64) << np.uint64(32)) | items)
    ordered = pairs.sort().to_numpy()
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return frame
    repeated = (
        pl.DataFrame({"pair": pairs, "time": frame["timestamp"]})
        .with_row_index("row")
        .filter(pairs.is_in(pl.Series(twice).unique().implode()))
    )
    kept = repeated.sort("time", "row", nulls_last=False).unique("pair", keep="last", maintain_order=True)
    lost = np.setdiff1d(repeated["row"].to_numpy(), kept["row"].to_numpy(), assume_unique=True)
    quality.add(source, "repeated_interaction", "dropped", len(lost), examples(frame, lost))
    ok = np.ones(len(frame), dtype=bool)
    ok[lost] = False
    return frame.filter(ok)


def at_least(frame: pl.DataFrame, min_rating: float | None, source: str, quality: Quality) -> pl.DataFrame:
    """Ratings from `min_rating` on; a row without a rating is no choice either."""
    if min_rating is None:
        return frame
    ok = (frame["rating"] >= min_rating).fill_null(value=False)
    lost = (~ok).arg_true()
    quality.add(source, "rating_below_threshold", "dropped", len(lost), examples(frame, lost))
    return frame.filter(ok)


def k_core(users: NDArray[Any], items: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Row numbers of the largest subset in which every user and every item has at least `k` rows."""
    users, items = users.astype(np.intp), items.astype(np.intp)  # what bincount and indexing would make of them anew
    of_user, of_item = np.bincount(users), np.bincount(items)
    kept = np.ones(len(users), dtype=bool)
    while True:
        ok = (of_user >= k)[users] & (of_item >= k)[items]
        lost = np.flatnonzero(kept & ~ok)
        if not len(lost):
            return np.flatnonzero(kept)
        kept[lost] = False
        of_user -= np.bincount(users[lost], minlength=len(of_user))
        of_item -= np.bincount(items[lost], minlength=len(of_item))


def codes(frame: pl.DataFrame) -> tuple[Codes, Codes]:
    """User and item codes of each row; they number ids in no stable order, so only equality means anything."""
    users, items = (frame[name].to_physical().to_numpy() for name in ("user_id", "item_id"))
    return users, items


def examples(frame: pl.DataFrame, rows: pl.Series | NDArray[Any]) -> tuple[str, ...]:
    """The ids in the first few of some rows, which are given by number."""
    shown = frame[rows[:EXAMPLES]]
    users, items = (shown[name].cast(pl.String) for name in ("user_id", "item_id"))
    return tuple(f"{user} → {item}" for user, item in zip(users, items, strict=True))
