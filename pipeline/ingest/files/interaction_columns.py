"""Text columns of any file to raw interactions: typed, ids checked, a published split understood."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import polars as pl
import polars.selectors as cs

from pipeline.ingest.raw import RawFile
from pipeline.ingest.sources.base import DATE_ORDER, MICROSECONDS_FROM, MILLISECONDS_FROM
from pipeline.ingest.tally import Quality
from schemas.errors import UserError

DATE_FORMATS = 4
"""So many formats of dates may be mixed in one batch."""

_DAY, _MONTH = r"(1[3-9]|2\d|3[01])", r"(0?[1-9]|1[0-2])"
"""A number that can be a day only, and one that can be a month (or a day)."""
_YEAR = r"([./-]\d{4})\b"
ORDERS = {
    "day first": f"^{_DAY}([./-]){_MONTH}{_YEAR}",
    "month first": f"^{_MONTH}([./-]){_DAY}{_YEAR}",
    "either": f"^{_MONTH}([./-]){_MONTH}{_YEAR}",
}
"""Beginnings of dates by what they say of their order (`base.DATE_ORDER`)."""

SPLITS = {
    "0": "train", "0.0": "train", "train": "train",
    "1": "valid", "1.0": "valid", "valid": "valid", "val": "valid", "validation": "valid",
    "2": "test", "2.0": "test", "test": "test",
}  # fmt: skip
"""A published split's values, as numbers too, which pandas writes as floats where some are missing."""


@dataclass(frozen=True)
class Columns:
    """The file's own names of the columns; None: it has no such column."""

    user_id: str
    item_id: str
    rating: str | None = None
    timestamp: str | None = None
    split: str | None = None

    def present(self) -> dict[str, str]:
        """Our name → the file's, of those that it has."""
        return {ours: theirs for ours, theirs in vars(self).items() if theirs is not None}


def raw_interactions(
    batches: Iterable[pl.DataFrame], columns: Columns, file: RawFile, quality: Quality
) -> Iterator[pl.DataFrame]:
    """Type each batch of columns, named as in the file.

    Rules: white space around values is dropped; an empty or missing id drops the row; a rating or a time that cannot be
    read becomes null; an unknown value of a published split drops the row. Each is counted.

    Raises:
        UserError: a column is missing or of no use; the file has no row with both ids, or none of a known split.
    """
    rows = kept = 0
    for batch in batches:
        frame = _renamed(batch, columns, file)
        _refuse_types(frame, file)
        rows += len(frame)
        frame = _with_date_order(_with_ids(frame, file, quality))
        for name in ("rating", "timestamp"):
            frame = _typed(frame, name, file, quality)
        if "split" in frame.columns:
            frame = _with_split(frame, file, quality)
        kept += len(frame)
        optional = [name for name in ("split", "date_order") if name in frame.columns]
        yield frame.select("user_id", "item_id", "rating", "timestamp", *optional)
    if kept == 0 and quality.count("split_unknown"):
        raise UserError(
            f"{file.name}: none of {rows:,} rows has a split we know in {columns.split}; expected train, valid or "
            "test, or 0, 1 or 2. Name another column in the source's mapping, mend the file, or choose an ingest.split "
            "that leaves the column alone: per_user, leave_one_out or global_time."
        )
    if kept == 0:
        raise UserError(
            f"{file.name}: none of {rows:,} rows has both a user ({columns.user_id}) and an item ({columns.item_id}). "
            f"Check that {file.source} is the right file."
        )


def _renamed(batch: pl.DataFrame, columns: Columns, file: RawFile) -> pl.DataFrame:
    wanted = columns.present()
    if missing := [theirs for theirs in wanted.values() if theirs not in batch.columns]:
        raise UserError(
            f"{file.name}: column {', '.join(missing)} is missing; expected {', '.join(wanted.values())}; found "
            f"{', '.join(batch.columns)}. Name the columns in the source's mapping, or mend the file."
        )
    frame = batch.select(**{ours: pl.col(theirs) for ours, theirs in wanted.items()})
    frame = frame.with_columns((cs.categorical() | cs.enum()).cast(pl.String))
    return frame.with_columns(cs.string().str.strip_chars())


def _refuse_types(frame: pl.DataFrame, file: RawFile) -> None:
    """What is no number, text or date: lists, structs, times of day and durations; and dates as ratings."""
    refused = [
        f"{name} ({dtype})"
        for name, dtype in frame.schema.items()
        if dtype.is_nested() or dtype == pl.Time or dtype == pl.Duration or (name == "rating" and dtype.is_temporal())
    ]
    if refused:
        raise UserError(
            f"{file.name}: expected a number, text or date for {', '.join(frame.columns)}; found {', '.join(refused)}. "
            "Name another column in the source's mapping, or mend the file."
        )


def _with_ids(frame: pl.DataFrame, file: RawFile, quality: Quality) -> pl.DataFrame:
    frame = frame.with_columns(_as_text(frame[name]) for name in ("user_id", "item_id"))
    for name in ("user_id", "item_id"):
        there = frame[name].is_not_null() & (frame[name] != "")
        if not there.all():
            lost = frame.filter(~there)
            other = lost["item_id" if name == "user_id" else "user_id"].fill_null("?").head(3)
            rule = f"interaction_without_{name.removesuffix('_id')}"
            quality.add(file.name, rule, "dropped", len(lost), tuple(other))
            frame = frame.filter(there)
    return frame


def _as_text(ids: pl.Series) -> pl.Series:
    """As `records.as_text` writes them: pandas makes floats of numbers where some are missing."""
    if not ids.dtype.is_float():
        return ids.cast(pl.String)
    finite = ids.set(~ids.is_finite(), None)
    whole = finite.cast(pl.Int128, strict=False)
    return whole.cast(pl.String).zip_with(whole == finite, finite.cast(pl.String))


def _with_date_order(frame: pl.DataFrame) -> pl.DataFrame:
    """`date_order` where a time is a date with a year at its end: `interactions.collect` needs the whole file's."""
    if frame.schema.get("timestamp") != pl.String:
        return frame
    time = frame["timestamp"]
    if not time.str.contains("^[0-9]{1,2}[./-]").any():  # of few states: this is asked of every number
        return frame
    order = pl.coalesce(pl.when(time.str.contains(beginning)).then(pl.lit(name)) for name, beginning in ORDERS.items())
    with_order = frame.with_columns(order.cast(DATE_ORDER).alias("date_order"))
    return with_order if with_order["date_order"].count() else frame


def _typed(frame: pl.DataFrame, name: str, file: RawFile, quality: Quality) -> pl.DataFrame:
    dtype = pl.Float32 if name == "rating" else pl.Int64
    if name not in frame.columns:
        return frame.with_columns(pl.lit(None, dtype).alias(name))
    raw = frame[name]
    if name == "rating":
        typed = raw.cast(pl.Float32, strict=False)
        typed = typed.set(typed.is_nan() | typed.is_infinite(), None)
    else:
        typed = _times(raw)
    unread = raw.is_not_null() & typed.is_null()
    if count := int(unread.sum()):
        examples = tuple(str(value)[:40] for value in raw.filter(unread).head(3))
        quality.add(file.name, f"{name}_unreadable", "repaired", count, examples)
    return frame.with_columns(typed.alias(name))


def _times(raw: pl.Series) -> pl.Series:
    """Integers as they are, floats as `_whole`, dates as `_unmistakable` (UTC where no zone is given):
    `interactions.collect` tells seconds, milliseconds and microseconds apart."""
    if raw.dtype.is_temporal():
        return _unmistakable(raw.cast(pl.Datetime("us")))
    typed = _whole(raw) if raw.dtype.is_float() else raw.cast(pl.Int64, strict=False)
    if raw.dtype != pl.String:
        return typed
    if (typed.is_null() & raw.is_not_null()).any():
        typed = typed.fill_null(_whole(raw.cast(pl.Float64, strict=False)))
        raw = raw.str.replace(ORDERS["month first"], "${3}${2}${1}${4}")  # the order that polars knows
    for _ in range(DATE_FORMATS):  # each pass reads the format of the first one still unread
        unread = raw.set(typed.is_not_null(), None)
        if unread.null_count() == len(unread):
            break
        try:
            dates = _unmistakable(unread.str.to_datetime(time_unit="us", time_zone="UTC", strict=False))
        except pl.exceptions.PolarsError:  # no format fits
            break
        typed = typed.fill_null(dates)
    return typed


def _whole(times: pl.Series) -> pl.Series:
    """Seconds with a fraction as milliseconds: it may decide which of two choices was the later. Others are cut."""
    milliseconds = (times.cast(pl.Float64) * 1000).round()
    fine = (times < MILLISECONDS_FROM) & (milliseconds >= MILLISECONDS_FROM) & (times != times.floor())
    return times.cast(pl.Int64, strict=False).zip_with(
        ~fine.fill_null(False), milliseconds.cast(pl.Int64, strict=False)
    )


def _unmistakable(dates: pl.Series) -> pl.Series:
    """Microseconds, or seconds where so few would be taken for milliseconds or seconds: before March 1973."""
    time = dates.cast(pl.Int64)
    return (time // 1_000_000).zip_with(time < MICROSECONDS_FROM, time)


def _with_split(frame: pl.DataFrame, file: RawFile, quality: Quality) -> pl.DataFrame:
    named = _as_text(frame["split"]).str.to_lowercase().replace_strict(SPLITS, default=None)
    unknown = named.is_null()
    if count := int(unknown.sum()):
        examples = tuple(str(value)[:40] for value in frame.filter(unknown)["split"].head(3))
        quality.add(file.name, "split_unknown", "dropped", count, examples)
    return frame.with_columns(named.alias("split")).filter(~unknown)
