"""A file in any format that a catalogue may have. The suffix says which: Parquet, Arrow, rows of text, else JSON."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any
from urllib.parse import unquote

import polars as pl

from pipeline.ingest.files import delimited, json_lines, parquet, streams
from pipeline.ingest.files.parquet import Embedded
from pipeline.ingest.paths import value_at
from pipeline.ingest.raw import RawFile
from pipeline.ingest.tally import Quality
from schemas.sources import FileFormat, plain_name

PEEKED = 1000
"""Records of a JSON Lines file that are read to learn which fields there are."""
DEFAULT = FileFormat()
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""The value of a partition whose rows have none."""
_SEPARATORS = ("::", ";", "\t", "|", ",")
_OF_SUFFIX = {
    ".parquet": "parquet",
    ".arrow": "parquet",
    ".csv": ",",
    ".txt": ",",
    ".tsv": "\t",
    ".inter": "\t",
    ".item": "\t",
    ".dat": "::",
}
"""End of a name → `parquet`, or a separator; of all others `json`."""


@dataclass(frozen=True)
class Parts(RawFile):
    """A folder or a pattern: files of one format that are read one after the other. A column may be missing from some
    of them, or be told by the folders that they lie in (`partition`)."""

    parts: tuple[RawFile, ...] = ()


def parts(file: RawFile) -> tuple[RawFile, ...]:
    """The files that a file consists of: most often itself. Of texts without those that are empty, as Spark leaves
    them where a task had no rows, unless all are."""
    if not isinstance(file, Parts):
        return (file,)
    if format_of(file) == "parquet":
        return file.parts
    return tuple(part for part in file.parts if not streams.is_empty(part)) or file.parts[:1]


def partition(part: RawFile) -> dict[str, str | None]:
    """The columns that the folders of a part tell, as Spark, Dask and DuckDB write them: `day=2024-05-01/part-0.csv`.
    A column of that name within the part comes first; of JSON a field of that name with a value."""
    pairs = [folder.partition("=") for folder in part.name.split("/")[:-1]]
    return {unquote(name): None if value == HIVE_NULL else unquote(value) for name, sign, value in pairs if sign}


def is_empty(file: RawFile) -> bool:
    """Whether a file, or each of its parts, has not one byte, or only a byte order mark."""
    return streams.is_empty(parts(file)[0])


def format_of(file: RawFile, form: FileFormat = DEFAULT) -> str:
    """`parquet` (also of Arrow files), `json`, or the separator of a delimited file."""
    name = plain_name(file.name)
    kind = _OF_SUFFIX.get(name[name.rfind(".") :], "json")
    return kind if kind in ("parquet", "json") else form.separator or kind


def field_names(file: RawFile, form: FileFormat = DEFAULT) -> list[str]:
    """Columns of the file, of several parts those of each and of their folders; of JSON the fields of the first
    records."""
    if not isinstance(file, Parts):
        return _fields(file, form)
    every = parts(file)
    sampled = every[:1] if format_of(file, form) == "json" else every
    names = [*(_fields(part, form) for part in sampled), *map(partition, every)]
    return list(dict.fromkeys(chain.from_iterable(names)))


def _fields(file: RawFile, form: FileFormat) -> list[str]:
    match format_of(file, form):
        case "parquet":
            return parquet.column_names(file)
        case "json":
            names: dict[str, None] = {}
            for number, record in enumerate(json_lines.records(file, Quality(), 1.0, encoding=form.encoding)):
                names.update(dict.fromkeys(record))
                if number >= PEEKED:
                    break
            return list(names)
        case separator:
            return list(form.header) or delimited.header_of(file, separator, form.encoding)


def records(
    file: RawFile,
    names: Collection[str],
    quality: Quality,
    max_bad: float,
    form: FileFormat = DEFAULT,
    pictures: Embedded | None = None,
) -> Iterator[dict[str, Any]]:
    """One dictionary per record; of Parquet it has only the columns in `names`. Of JSON and Parquet a name may be a
    path (`paths.value_at`).

    Args:
        pictures: columns of Parquet whose bytes are pictures; their values are addresses.
    """
    if format_of(file, form) == "json":
        paths = [name for name in names if "." in name]
        for part in parts(file):
            told = partition(part) if isinstance(file, Parts) else {}
            for record in json_lines.records(part, quality, max_bad, encoding=form.encoding):
                record |= {name: value for name, value in told.items() if record.get(name) is None}
                yield record | {path: value_at(record, path) for path in paths} if paths else record
    else:
        for frame in tables(file, names, quality, max_bad, form, pictures):
            yield from frame.iter_rows(named=True)


def tables(
    file: RawFile,
    names: Collection[str],
    quality: Quality,
    max_bad: float,
    form: FileFormat = DEFAULT,
    pictures: Embedded | None = None,
) -> Iterator[pl.DataFrame]:
    """The columns in `names`, a block of records at a time; of a delimited file all columns. A part that lacks a column
    has what its folders say there, or nothing."""
    for part in parts(file):
        if not isinstance(file, Parts):
            yield from _tables(part, names, quality, max_bad, form, pictures)
            continue
        told = {name: pl.lit(value, pl.String) for name, value in partition(part).items() if name in names}
        inside = [name for name in names if format_of(file) != "parquet" or parquet.has_path(part, name)]
        for frame in _tables(part, inside, quality, max_bad, form, pictures):
            lacking = {name: told.get(name, pl.lit(None, pl.String)) for name in names if name not in frame.columns}
            if format_of(file) == "json":  # a field that no record has is a column without values
                lacking |= {name: pl.coalesce(name, value) for name, value in told.items()}
            yield frame.with_columns(**lacking)


def _tables(
    file: RawFile,
    names: Collection[str],
    quality: Quality,
    max_bad: float,
    form: FileFormat,
    pictures: Embedded | None,
) -> Iterator[pl.DataFrame]:
    match format_of(file, form):
        case "parquet":
            yield from parquet.tables(file, names, pictures)
        case "json":
            yield from json_lines.columns(file, names, quality, max_bad, encoding=form.encoding)
        case separator:
            yield from delimited.tables(
                file,
                quality,
                max_bad,
                header=form.header or None,
                separator=separator,
                encoding=form.encoding,
                names=names,
            )


def absent(names: Collection[str], file: RawFile, form: FileFormat = DEFAULT) -> list[str]:
    """Those of the names that are neither among `field_names(file)` nor paths into these; of JSON Lines, in no later
    record either."""
    fields = field_names(file, form)
    missing = dict.fromkeys(name for name in names if name not in fields)
    match format_of(file, form):
        case "json" if missing:
            every = (json_lines.records(part, Quality(), 1.0, encoding=form.encoding) for part in parts(file))
            for record in chain.from_iterable(every):
                for name in [name for name in missing if name in record or value_at(record, name) is not None]:
                    del missing[name]
                if not missing:
                    break
        case "parquet":
            return [name for name in missing if not any(parquet.has_path(part, name) for part in parts(file))]
    return list(missing)


def part_without(names: Collection[str], file: RawFile, form: FileFormat = DEFAULT) -> RawFile | None:
    """The first of several parts that lacks one of these columns; JSON's may come in any record."""
    if not isinstance(file, Parts) or format_of(file, form) == "json":
        return None
    for part in parts(file):
        inside = {*_fields(part, form), *partition(part)}
        missing = [name for name in names if name not in inside]
        if missing and (format_of(file, form) != "parquet" or not all(parquet.has_path(part, n) for n in missing)):
            return part
    return None


def holds_bytes(file: RawFile, name: str, form: FileFormat = DEFAULT) -> bool:
    """Whether a column, or a path, of a Parquet file holds bytes."""
    return format_of(file, form) == "parquet" and any(parquet.holds_bytes(part, name) for part in parts(file))


def separator_hint(file: RawFile, names: Collection[str], form: FileFormat, parameter: str) -> str:
    """What to say if the names of a file's columns have another separator in them, or are JSON."""
    if form.separator or format_of(file, form) in ("parquet", "json"):
        return ""
    line = " ".join(names)
    if line.lstrip().startswith(("{", "[{")):
        return " It looks like JSON: give the file a name that ends in .jsonl."
    separator = max(_SEPARATORS, key=line.count)
    if not line.count(separator):
        return ""
    return (
        f" Its first line has {separator!r} between fields: give `{parameter}: {{separator: {separator!r}}}`; if it is "
        f"no header, give the columns' names as `{parameter}: {{header: [item_id, …]}}`."
    )
