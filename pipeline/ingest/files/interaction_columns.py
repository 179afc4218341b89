"""Columns of any file to raw interactions: typed, with ids checked and a published split read."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import polars as pl
import polars.selectors as cs

from pipeline.ingest.raw import RawFile
from pipeline.ingest.sources.base import DATE_ORDER, MICROSECONDS_FROM, MILLISECONDS_FROM, SPLIT
from pipeline.ingest.tally import EXAMPLES, Quality
from schemas.errors import UserError

DATE_FORMATS = 4
"""Date formats that one batch may mix."""

_DAY, _MONTH = r"(1[3-9]|2\d|3[01])", r"(0?[1-9]|1[0-2])"
"""A number that can only be a day, and one that can be a month or a day."""
_YEAR = r"([./-]\d{4})\b"
ORDERS = {
    "day first": f"^{_DAY}([./-]){_MONTH}{_YEAR}",
    "month first": f"^{_MONTH}([./-]){_DAY}{_YEAR}",
    "either": f"^{_MONTH}([./-]){_MONTH}{_YEAR}",
}
"""The order of day and month (`base.DATE_ORDER`) → beginning of the dates that can only have this order, or either."""

SPLIT_VALUES = {
    "train": ("train", "0", "0.0"),
    "valid": ("valid", "val", "validation", "1", "1.0"),
    "test": ("test", "2", "2.0"),
}
"""Split → how a file may call it. Pandas writes numbers as floats if some are missing."""
_SPLIT_OF = {value: split for split, values in SPLIT_VALUES.items() for value in values}


@dataclass(frozen=True)
class Columns:
    """The file's own names of the columns; None: it has no such column."""

    user_id: str
    item_id: str
    rating: str | None = None
    timestamp: str | None = None
    split: str | None = None

    def present(self) -> dict[str, str]:
        """Our name → the file's, of the columns that it has."""
        return {ours: theirs for ours, theirs in vars(self).items() if theirs is not None}


def raw_interactions(
    batches: Iterable[pl.DataFrame], columns: Columns, file: RawFile, quality: Quality
) -> Iterator[pl.DataFrame]:
    """Batches with the columns of `sources.base.RAW_INTERACTIONS`, made of batches with the file's own columns.

    White space around values is removed. A row without an id, or with an unknown value of a published split, is
    dropped; a rating or time that cannot be read becomes null. Each of these is counted.

    Raises:
        UserError: a column is missing or has an unusable type; or no row has both ids, or none a known split.
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
    if rows and not kept:
        raise UserError(
            f"{file.name}: none of {rows:,} rows has both a user ({columns.user_id}) and an item ({columns.item_id}). "
            f"Check that {file.source} is the right file."
        )


def _renamed(batch: pl.DataFrame, columns: Columns, file: RawFile) -> pl.DataFrame:
    names = columns.present()
    if missing := [theirs for theirs in names.values() if theirs not in batch.columns]:
        raise UserError(
            f"{file.name}: column {', '.join(missing)} is missing; expected {', '.join(names.values())}; found "
            f"{', '.join(batch.columns)}. Name the columns in the source's mapping, or mend the file."
        )
    frame = batch.select(**{ours: pl.col(theirs) for ours, theirs in names.items()})
    frame = frame.with_columns((cs.categorical() | cs.enum()).cast(pl.String))
    return frame.with_columns(cs.string().str.strip_chars())


def _refuse_types(frame: pl.DataFrame, file: RawFile) -> None:
    """Refuse what is no number, text or date (lists, structs, times of day, durations), and dates as ratings."""
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
        has_id = frame[name].is_not_null() & (frame[name] != "")
        if not has_id.all():
            lost = frame.filter(~has_id)
            other = lost["item_id" if name == "user_id" else "user_id"].fill_null("?").head(EXAMPLES)
            rule = f"interaction_without_{name.removesuffix('_id')}"
            quality.add(file.name, rule, "dropped", len(lost), tuple(other))
            frame = frame.filter(has_id)
    return frame


def _as_text(ids: pl.Series) -> pl.Series:
    """As `json_lines.as_text` writes them: pandas turns numbers into floats if some are missing."""
    if not ids.dtype.is_float():
        return ids.cast(pl.String)
    finite = ids.set(~ids.is_finite(), None)
    whole = finite.cast(pl.Int128, strict=False)
    return whole.cast(pl.String).zip_with(whole == finite, finite.cast(pl.String))


def _with_date_order(frame: pl.DataFrame) -> pl.DataFrame:
    """Adds `date_order` if a time is a date that ends in its year; `interactions.collect` judges the whole file's."""
    if frame.schema.get("timestamp") != pl.String:
        return frame
    time = frame["timestamp"]
    if not time.str.contains("^[0-9]{1,2}[./-]").any():  # a cheap pattern, because it runs on every number
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
        examples = tuple(str(value)[:40] for value in raw.filter(unread).head(EXAMPLES))
        quality.add(file.name, f"{name}_unreadable", "repaired", count, examples)
    return frame.with_columns(typed.alias(name))


def _times(raw: pl.Series) -> pl.Series:
    """Times as integers, of which `interactions.collect` tells seconds, milliseconds and microseconds apart. Integers
    stay, floats are read by `_whole`, dates by `_unmistakable` (as UTC if they have no zone)."""
    if raw.dtype.is_temporal():
        return _unmistakable(raw.cast(pl.Datetime("us")))
    typed = _whole(raw) if raw.dtype.is_float() else raw.cast(pl.Int64, strict=False)
    if raw.dtype != pl.String:
        return typed
    if (typed.is_null() & raw.is_not_null()).any():
        typed = typed.fill_null(_whole(raw.cast(pl.Float64, strict=False)))
        raw = raw.str.replace(ORDERS["month first"], "${3}${2}${1}${4}")  # the order that polars knows
    for _ in range(DATE_FORMATS):  # each pass reads the format of the first text that is still unread
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
    """Seconds with a fraction become milliseconds, since it may decide which of two choices was later; other fractions
    are cut off."""
    milliseconds = (times.cast(pl.Float64) * 1000).round()
    fine = (times < MILLISECONDS_FROM) & (milliseconds >= MILLISECONDS_FROM) & (times != times.floor())
    return times.cast(pl.Int64, strict=False).zip_with(
        ~fine.fill_null(False), milliseconds.cast(pl.Int64, strict=False)
    )


def _unmistakable(dates: pl.Series) -> pl.Series:
    """Microseconds; before March 1973 seconds, since so few microseconds would be taken for another unit."""
    time = dates.cast(pl.Int64)
    return (time // 1_000_000).zip_with(time < MICROSECONDS_FROM, time)


def _with_split(frame: pl.DataFrame, file: RawFile, quality: Quality) -> pl.DataFrame:
    split = _as_text(frame["split"]).str.to_lowercase().replace_strict(_SPLIT_OF, default=None, return_dtype=SPLIT)
    unknown = split.is_null()
    if count := int(unknown.sum()):
        examples = tuple(str(value)[:40] for value in frame.filter(unknown)["split"].head(EXAMPLES))
        quality.add(file.name, "split_unknown", "dropped", count, examples)
    return frame.with_columns(split.alias("split")).filter(~unknown)
