"""Columns of any file to raw interactions: typed, with ids checked and a published split read."""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import polars as pl
import polars.selectors as cs

from pipeline.ingest.files import times
from pipeline.ingest.files.times import ORDERS
from pipeline.ingest.raw import RawFile
from pipeline.ingest.readable import Readable, judge
from pipeline.ingest.sources.base import DATE_ORDER, OPTIONAL, SPLIT
from pipeline.ingest.tally import EXAMPLES, Quality
from schemas.errors import UserError
from schemas.sources import MISSING

logger = logging.getLogger(__name__)

FEWEST_JUDGED = 10
"""Interactions from which on times that all lie in one day of 1970 are not believed."""
_WORDS = {
    "rating": ("ratings", "give `rating_values` such as {view: 1, cart: 2, purchase: 3}"),
    "timestamp": ("times", "give `time_format`"),
}
"""Our name → what the values are called, and what to do where they cannot be read."""
_YEAR_1970 = 365 * 86_400
_NUMBERS = ((25_569, 73_051), (1_970, 2_100), (19_900_101, 20_991_231))
"""Numbers that may be a workbook's days, years, or dates such as 20240506: `interactions.collect` decides."""

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


@dataclass(frozen=True)
class Reading:
    """How values are read.

    Attributes:
        missing: words that stand for nothing.
        time_format: strftime format of times; empty: every usual way is tried.
        rating_values: what a word counts as a rating, e.g. view, cart and purchase; in any case.
        mapped: our names of the columns that a person or the format named: if (almost) nothing can be read of one, the
            file is refused. None: all.
    """

    missing: Collection[str] = MISSING
    time_format: str = ""
    rating_values: Mapping[str, float] = field(default_factory=dict)
    mapped: Collection[str] | None = None


def raw_interactions(
    batches: Iterable[pl.DataFrame], columns: Columns, file: RawFile, quality: Quality, reading: Reading | None = None
) -> Iterator[pl.DataFrame]:
    """Batches with the columns of `sources.base.RAW_INTERACTIONS`, made of batches with the file's own columns.

    White space around values is removed. A row without an id, or with an unknown value of a published split, is
    dropped; a rating or time that cannot be read, or is a word that stands for nothing, becomes null. Each of these is
    counted.

    Raises:
        UserError: a column is missing or has an unusable type; no row has both ids, or none a known split; or of a
            mapped column nothing can be read, or all times lie in one day of 1970.
    """
    reading = reading or Reading()
    rows = kept = 0
    columns_read = {"rating": Readable(), "timestamp": Readable()}
    extent: list[int] = []  # the earliest and latest raw time of each batch
    for batch in batches:
        frame = _renamed(batch, columns, file)
        _refuse_types(frame, file)
        rows += len(frame)
        frame = _with_date_order(_with_ids(frame, file, quality, reading.missing))
        for name, column in columns_read.items():
            frame = _typed(frame, name, file, quality, reading, column)
        if "split" in frame.columns:
            frame = _with_split(frame, file, quality)
        kept += len(frame)
        extent.extend(value for value in (frame["timestamp"].min(), frame["timestamp"].max()) if isinstance(value, int))
        optional = [name for name in OPTIONAL if name in frame.columns]
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
    for name, column in columns_read.items():
        what, advice = _WORDS[name]
        is_mapped = reading.mapped is None or name in reading.mapped
        judge(column, f"{what} in {getattr(columns, name)}", file.name, advice, is_mapped=is_mapped)
    _judge_times(extent, kept, columns, file, quality, reading)


def _judge_times(
    extent: list[int],
    rows: int,
    columns: Columns,
    file: RawFile,
    quality: Quality,
    reading: Reading,
) -> None:
    """Refuse times that would all lie in one day of 1970, which is what numbers that are no times look like."""
    first, last = min(extent, default=-1), max(extent, default=-1)
    if rows < FEWEST_JUDGED or last >= _YEAR_1970 or first < 0 or first // 86_400 != last // 86_400:
        return
    if any(low <= first and last < high for low, high in _NUMBERS):
        return
    message = f"all {rows:,} times in {columns.timestamp} would lie in one day of 1970, e.g. {first} and {last}"
    if reading.mapped is None or "timestamp" in reading.mapped:
        raise UserError(
            f"{file.name}: {message}, so they are no seconds since 1970. Name another column in the source's mapping, "
            "give `time_format`, or leave the column out."
        )
    quality.add(file.name, "timestamps_of_one_day_in_1970", "kept", rows, (str(first), str(last)))
    logger.warning("%s: %s; their order is used, the dates are not right", file.name, message)


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


def _with_ids(frame: pl.DataFrame, file: RawFile, quality: Quality, missing: Collection[str]) -> pl.DataFrame:
    frame = frame.with_columns(_as_text(frame[name]) for name in ("user_id", "item_id"))
    for name in ("user_id", "item_id"):
        has_id = ~_says_nothing(frame[name], missing)
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


def _says_nothing(texts: pl.Series, missing: Collection[str]) -> pl.Series:
    """Whether a text is null, empty, or a word that stands for nothing. Most texts are told by their length alone."""
    sizes = texts.str.len_bytes()
    nothing = sizes.fill_null(0) == 0
    if missing and (sizes <= max(len(word.encode()) for word in missing)).any():
        nothing |= texts.is_in(list(missing)).fill_null(value=False)
    return nothing


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


def _typed(
    frame: pl.DataFrame, name: str, file: RawFile, quality: Quality, reading: Reading, column: Readable
) -> pl.DataFrame:
    if name not in frame.columns:
        dtype = pl.Float32 if name == "rating" else pl.Int64
        return frame.with_columns(pl.lit(None, dtype).alias(name))
    raw = frame[name]
    optional: dict[str, pl.Series] = {}
    if name == "rating":
        typed = _ratings(raw, reading.rating_values)
    else:
        typed, is_date, fraction = times.times(raw, reading.time_format)
        optional = {key: value for key, value in (("is_date", is_date), ("fraction", fraction)) if value is not None}
    values = len(raw) - raw.null_count()
    if len(typed) - typed.null_count() == values:
        column.add(values, 0, ())
        return frame.with_columns(typed.alias(name), **optional)
    unread = raw.filter(raw.is_not_null() & typed.is_null()).cast(pl.String)
    nothing = _says_nothing(unread, reading.missing)
    for rule, lost in (("missing_word", unread.filter(nothing)), ("unreadable", unread.filter(~nothing))):
        examples = tuple(str(value)[:40] for value in lost.head(EXAMPLES))
        quality.add(file.name, f"{name}_{rule}", "repaired", len(lost), examples)
    lost = unread.filter(~nothing)
    column.add(values - int(nothing.sum()), len(lost), lost.unique(maintain_order=True).head(EXAMPLES))
    return frame.with_columns(typed.alias(name), **optional)


def _ratings(raw: pl.Series, values: Mapping[str, float]) -> pl.Series:
    typed = raw.cast(pl.Float32, strict=False)
    typed = typed.set(typed.is_nan() | typed.is_infinite(), None)
    if values and raw.dtype == pl.String:
        words = {word.casefold(): value for word, value in values.items()}
        typed = raw.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Float32).fill_null(typed)
    return typed


def _with_split(frame: pl.DataFrame, file: RawFile, quality: Quality) -> pl.DataFrame:
    split = _as_text(frame["split"]).str.to_lowercase().replace_strict(_SPLIT_OF, default=None, return_dtype=SPLIT)
    unknown = split.is_null()
    if count := int(unknown.sum()):
        examples = tuple(str(value)[:40] for value in frame.filter(unknown)["split"].head(EXAMPLES))
        quality.add(file.name, "split_unknown", "dropped", count, examples)
    return frame.with_columns(split.alias("split")).filter(~unknown)
