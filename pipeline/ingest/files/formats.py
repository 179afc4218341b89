"""A file in any format that a catalogue may have. The suffix says which: Parquet, Arrow, rows of text, else JSON."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import polars as pl

from pipeline.ingest.files import delimited, json_lines, parquet
from pipeline.ingest.files.parquet import Embedded
from pipeline.ingest.paths import value_at
from pipeline.ingest.raw import RawFile
from pipeline.ingest.tally import Quality
from schemas.sources import FileFormat, plain_name

PEEKED = 1000
"""Records of a JSON Lines file that are read to learn which fields there are."""
DEFAULT = FileFormat()
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
    """A folder or a pattern: files of one format that are read one after the other."""

    parts: tuple[RawFile, ...] = ()


def parts(file: RawFile) -> tuple[RawFile, ...]:
    """The files that a file consists of: most often itself."""
    return file.parts if isinstance(file, Parts) else (file,)


def format_of(file: RawFile, form: FileFormat = DEFAULT) -> str:
    """`parquet` (also of Arrow files), `json`, or the separator of a delimited file."""
    name = plain_name(file.name)
    kind = _OF_SUFFIX.get(name[name.rfind(".") :], "json")
    return kind if kind in ("parquet", "json") else form.separator or kind


def field_names(file: RawFile, form: FileFormat = DEFAULT) -> list[str]:
    """Columns of the file, of several parts those of the first; of JSON the fields of the first records."""
    first = parts(file)[0]
    match format_of(file, form):
        case "parquet":
            return parquet.column_names(first)
        case "json":
            names: dict[str, None] = {}
            for number, record in enumerate(json_lines.records(first, Quality(), 1.0, encoding=form.encoding)):
                names.update(dict.fromkeys(record))
                if number >= PEEKED:
                    break
            return list(names)
        case separator:
            return list(form.header) or delimited.header_of(first, separator, form.encoding)


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
            for record in json_lines.records(part, quality, max_bad, encoding=form.encoding):
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
    """The columns in `names`, a block of records at a time; of a delimited file all columns."""
    for part in parts(file):
        match format_of(file, form):
            case "parquet":
                yield from parquet.tables(part, names, pictures)
            case "json":
                yield from json_lines.columns(part, names, quality, max_bad, encoding=form.encoding)
            case separator:
                yield from delimited.tables(
                    part,
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
            return [name for name in missing if not parquet.has_path(parts(file)[0], name)]
    return list(missing)


def holds_bytes(file: RawFile, name: str, form: FileFormat = DEFAULT) -> bool:
    """Whether a column, or a path, of a Parquet file holds bytes."""
    return format_of(file, form) == "parquet" and parquet.holds_bytes(parts(file)[0], name)


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
