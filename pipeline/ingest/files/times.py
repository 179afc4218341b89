"""Times in a column of any type: numbers stay, dates become unmistakable numbers."""

from typing import NamedTuple

import polars as pl

from pipeline.ingest.sources.base import MICROSECONDS_FROM, MILLISECONDS_FROM

DATE_FORMATS = 4
"""Date formats that polars recognises by itself and that one batch may mix."""
DAYS_BELOW = 100_000
"""Numbers below may be days since 1900, as workbooks count them: their fraction is the time of day."""

_DAY, _MONTH = r"(1[3-9]|2\d|3[01])", r"(0?[1-9]|1[0-2])"
"""A number that can only be a day, and one that can be a month or a day."""
_YEAR = r"([./-]\d{4})\b"
ORDERS = {
    "day first": f"^{_DAY}([./-]){_MONTH}{_YEAR}",
    "month first": f"^{_MONTH}([./-]){_DAY}{_YEAR}",
    "either": f"^{_MONTH}([./-]){_MONTH}{_YEAR}",
}
"""The order of day and month (`base.DATE_ORDER`) → beginning of the dates that can only have this order, or either."""

_NAME = r"([A-Za-z]{3,9})\.?"
_REWRITTEN = (
    (r"\s+", " "),
    (r" ?\([^()]*\)$", ""),  # the name of a zone, as JavaScript adds it
    (r"(?i)^(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,? ", ""),
    (r"(:\d{2}),(\d+)", "${1}.${2}"),
    (r",| at ", " "),
    (r" {2,}", " "),
    (r" (?:UTC|GMT|Z)( \d{4})$", "${1}"),
    (r"(:\d{2}(?:\.\d+)?(?: ?[AaPp]\.?[Mm]\.?)?) ?(?:UTC|GMT)? ?([+-]\d{2}):?(\d{2})$", "${1}${2}${3}"),
    (r"(:\d{2}(?:\.\d+)?) ?([+-]\d{2})$", "${1}${2}00"),
    (r"(\d|[Mm]\.?) ?(?:UTC|GMT|Z)$", "${1}"),
    (r"(\d) ?([AaPp])\.?[Mm]\.?", "${1} ${2}M"),
    (r"[ T](\d{1,2}) ([AaPp])M", " ${1}:00 ${2}M"),
    (r"^(\d{1,2})(?:st|nd|rd|th)\b", "${1}"),
    (rf"^{_NAME} (\d{{1,2}})(?:st|nd|rd|th)?\b", "${1} ${2}"),
    (
        rf"^{_NAME} (\d{{1,2}}) (\d{{1,2}}:\d{{2}}:\d{{2}}(?:\.\d+)?)([+-]\d{{4}})? (\d{{4}})$",
        "${5}-${1}-${2} ${3}${4}",
    ),
    (rf"^(\d{{1,2}})[ ./-]{_NAME}[ ./-](\d{{4}})", "${3}-${2}-${1}"),
    (rf"^{_NAME} (\d{{1,2}}) (\d{{4}})", "${3}-${1}-${2}"),
    (rf"^(\d{{4}})[ ./-]{_NAME}[ ./-](\d{{1,2}})", "${1}-${2}-${3}"),
    (r"^(\d{1,2})[./-](\d{1,2})[./-](\d{4})", "${3}-${2}-${1}"),
    (r"^(\d{4})[./](\d{1,2})[./](\d{1,2})", "${1}-${2}-${3}"),
    (r"^(\d{4})(\d{2})(\d{2})[ T](\d{2}):?(\d{2}):?(\d{2})", "${1}-${2}-${3} ${4}:${5}:${6}"),
    (r"(?i)-sept-", "-Sep-"),
    (r"^([^ T]+)T(\d)", "${1} ${2}"),
    (r"^(\S+)$", "${1} 00:00"),
)
"""Pattern → replacement, in this order: the ways to write a time become few."""
_FORMATS = [
    f"{date} {time}{zone}"
    for date in ("%Y-%m-%d", "%Y-%b-%d")
    for time in ("%H:%M:%S%.f", "%H:%M", "%I:%M:%S%.f %p", "%I:%M %p")
    for zone in ("", "%z")
]


class Times(NamedTuple):
    """Times as integers, null where there is none or it cannot be read.

    Attributes:
        time: numbers as they are, of which `interactions.collect` tells the units apart; dates in microseconds.
        is_date: which were dates; None: none was.
        fraction: of small numbers, what follows the point; None: nothing does.
    """

    time: pl.Series
    is_date: pl.Series | None = None
    fraction: pl.Series | None = None


def times(raw: pl.Series, time_format: str = "") -> Times:
    """Times of a column; dates are UTC if they name no zone.

    Args:
        time_format: strftime format in which texts are read before any other way is tried.
    """
    if raw.dtype.is_temporal():
        return Times(unmistakable(raw.cast(pl.Datetime("us"))))
    if raw.dtype.is_float():
        return Times(_whole(raw), fraction=_fraction(raw))
    if raw.dtype != pl.String:
        return Times(raw.cast(pl.Int64, strict=False))
    if time_format:
        dates = unmistakable(_parsed(raw, time_format))
        if dates.null_count() == raw.null_count():
            return Times(dates, dates.is_not_null())
        rest = times(raw.set(dates.is_not_null(), None))
        return rest._replace(time=dates.fill_null(rest.time), is_date=dates.is_not_null())
    typed = raw.cast(pl.Int64, strict=False)
    if typed.null_count() == raw.null_count():
        return Times(typed)
    floats = raw.cast(pl.Float64, strict=False)
    numbers = typed.fill_null(_whole(floats))
    unread = numbers.is_null() & raw.is_not_null()
    fraction = _fraction(floats)
    if not unread.any():
        return Times(numbers, fraction=fraction)
    dates = _dates(raw.filter(unread))
    if dates.null_count() == len(dates):
        return Times(numbers, fraction=fraction)
    return Times(numbers.scatter(unread.arg_true(), dates), unread, fraction)


def _dates(texts: pl.Series) -> pl.Series:
    texts = texts.str.replace(ORDERS["month first"], "${3}${2}${1}${4}")  # the order that polars knows
    dates = pl.Series(texts.name, [None] * len(texts), pl.Int64)
    for _ in range(DATE_FORMATS):  # each pass reads the format of the first text that is still unread
        unread = texts.set(dates.is_not_null(), None)
        if unread.null_count() == len(unread):
            return dates
        try:
            dates = dates.fill_null(unmistakable(unread.str.to_datetime(time_unit="us", time_zone="UTC", strict=False)))
        except pl.exceptions.PolarsError:  # no format fits
            break
    rest = dates.is_null()
    plain = texts.filter(rest)
    for pattern, replacement in _REWRITTEN:
        plain = plain.str.replace_all(pattern, replacement)
    more = pl.Series(texts.name, [None] * len(plain), pl.Int64)
    for each in _FORMATS:
        if not more.null_count():
            break
        more = more.fill_null(unmistakable(_parsed(plain.set(more.is_not_null(), None), each)))
    return dates.scatter(rest.arg_true(), more)


def _parsed(texts: pl.Series, time_format: str) -> pl.Series:
    try:
        read = texts.str.to_datetime(time_format, time_unit="us", strict=False)
    except pl.exceptions.PolarsError:
        read = texts.str.to_date(time_format, strict=False).cast(pl.Datetime("us"))
    return read.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if "%z" in time_format else read


def _whole(numbers: pl.Series) -> pl.Series:
    """Seconds with a fraction become milliseconds, since it may decide which of two choices was later; other fractions
    are cut off."""
    milliseconds = (numbers.cast(pl.Float64) * 1000).round()
    fine = (numbers < MILLISECONDS_FROM) & (milliseconds >= MILLISECONDS_FROM) & (numbers != numbers.floor())
    return numbers.cast(pl.Int64, strict=False).zip_with(
        ~fine.fill_null(False), milliseconds.cast(pl.Int64, strict=False)
    )


def _fraction(numbers: pl.Series) -> pl.Series | None:
    fraction = (numbers - numbers.floor()).set(~numbers.is_between(0, DAYS_BELOW), 0.0)
    return fraction if (fraction > 0).any() else None


def unmistakable(dates: pl.Series) -> pl.Series:
    """Microseconds; before March 1973 seconds, since so few microseconds would be taken for another unit."""
    time = dates.cast(pl.Int64)
    return (time // 1_000_000).zip_with(time < MICROSECONDS_FROM, time)
