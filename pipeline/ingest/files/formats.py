"""A file in any format that a catalogue may have. The suffix says which: Parquet, CSV, TSV, else JSON Lines."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.ingest.files import delimited, json_lines, parquet
from pipeline.ingest.raw import RawFile
from pipeline.ingest.tally import Quality

PEEKED = 1000
"""Records of a JSON Lines file that are read to learn which fields there are."""


def format_of(file: RawFile) -> str:
    """`parquet`, `json`, or the separator of a delimited file."""
    suffix = Path(file.name.removesuffix(".gz")).suffix
    return {".parquet": "parquet", ".csv": ",", ".tsv": "\t"}.get(suffix, "json")


def field_names(file: RawFile) -> list[str]:
    """Columns of the file; of JSON Lines the fields of the first records."""
    match format_of(file):
        case "parquet":
            return parquet.column_names(file)
        case "json":
            names: dict[str, None] = {}
            for number, record in enumerate(json_lines.records(file, Quality(), 1.0)):
                names.update(dict.fromkeys(record))
                if number >= PEEKED:
                    break
            return list(names)
        case separator:
            return delimited.header_of(file, separator)


def records(file: RawFile, names: Collection[str], quality: Quality, max_bad: float) -> Iterator[dict[str, Any]]:
    """One dictionary per record; of Parquet it has only the columns in `names`."""
    match format_of(file):
        case "json":
            yield from json_lines.records(file, quality, max_bad)
        case _:
            for frame in tables(file, names, quality, max_bad):
                yield from frame.iter_rows(named=True)


def tables(file: RawFile, names: Collection[str], quality: Quality, max_bad: float) -> Iterator[pl.DataFrame]:
    """The columns in `names`, a block of records at a time; of a delimited file all columns."""
    match format_of(file):
        case "parquet":
            return parquet.tables(file, names)
        case "json":
            return json_lines.columns(file, names, quality, max_bad)
        case separator:
            return delimited.tables(file, quality, max_bad, separator=separator)


def absent(names: Collection[str], file: RawFile) -> list[str]:
    """Those of the names that are not among `field_names(file)`; of JSON Lines, in no later record either."""
    fields = field_names(file)
    missing = dict.fromkeys(name for name in names if name not in fields)
    if missing and format_of(file) == "json":
        for record in json_lines.records(file, Quality(), 1.0):
            for name in missing.keys() & record.keys():
                del missing[name]
            if not missing:
                break
    return list(missing)
