"""A file in any format that a catalogue may have. The suffix says which: Parquet, CSV, TSV, else JSON."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipeline.ingest.files import delimited, json_lines, parquet
from pipeline.ingest.raw import RawFile
from pipeline.ingest.tally import Quality
from schemas.sources import FileFormat, plain_name

PEEKED = 1000
"""Records of a JSON Lines file that are read to learn which fields there are."""
DEFAULT = FileFormat()
_SEPARATORS = ";\t|,"


@dataclass(frozen=True)
class Parts(RawFile):
    """A folder or a pattern: files of one format that are read one after the other."""

    parts: tuple[RawFile, ...] = ()


def parts(file: RawFile) -> tuple[RawFile, ...]:
    """The files that a file consists of: most often itself."""
    return file.parts if isinstance(file, Parts) else (file,)


def format_of(file: RawFile, form: FileFormat = DEFAULT) -> str:
    """`parquet`, `json`, or the separator of a delimited file."""
    name = plain_name(file.name)
    suffix = name[name.rfind(".") :]
    kind = {".parquet": "parquet", ".csv": ",", ".tsv": "\t", ".txt": ","}.get(suffix, "json")
    return form.separator or kind if len(kind) == 1 else kind


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
    file: RawFile, names: Collection[str], quality: Quality, max_bad: float, form: FileFormat = DEFAULT
) -> Iterator[dict[str, Any]]:
    """One dictionary per record; of Parquet it has only the columns in `names`."""
    if format_of(file, form) == "json":
        for part in parts(file):
            yield from json_lines.records(part, quality, max_bad, encoding=form.encoding)
    else:
        for frame in tables(file, names, quality, max_bad, form):
            yield from frame.iter_rows(named=True)


def tables(
    file: RawFile, names: Collection[str], quality: Quality, max_bad: float, form: FileFormat = DEFAULT
) -> Iterator[pl.DataFrame]:
    """The columns in `names`, a block of records at a time; of a delimited file all columns."""
    for part in parts(file):
        match format_of(file, form):
            case "parquet":
                yield from parquet.tables(part, names)
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
    """Those of the names that are not among `field_names(file)`; of JSON Lines, in no later record either."""
    fields = field_names(file, form)
    missing = dict.fromkeys(name for name in names if name not in fields)
    if missing and format_of(file, form) == "json":
        for record in records(file, names, Quality(), 1.0, form):
            for name in missing.keys() & record.keys():
                del missing[name]
            if not missing:
                break
    return list(missing)


def separator_hint(file: RawFile, names: Collection[str], form: FileFormat, parameter: str) -> str:
    """What to say if the names of a file's columns have another separator in them."""
    if form.separator or len(format_of(file, form)) > 1:
        return ""
    line = " ".join(names)
    separator = max(_SEPARATORS, key=line.count)
    if not line.count(separator):
        return ""
    return (
        f" Its first line has {separator!r} between fields: give `{parameter}: {{separator: {separator!r}}}`; if it is "
        f"no header, give the columns' names as `{parameter}: {{header: [item_id, …]}}`."
    )
