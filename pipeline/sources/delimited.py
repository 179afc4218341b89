"""Comma- or tab-separated files as text columns, a block at a time."""

import csv
import io
from collections.abc import Iterator, Sequence

import polars as pl

from pipeline.raw import RawFile
from pipeline.sources.base import Quality
from pipeline.sources.reading import Block, LineGuard, blocks
from schemas.errors import UserError


def tables(
    file: RawFile, quality: Quality, max_bad: float, *, header: Sequence[str] | None = None, separator: str = ","
) -> Iterator[pl.DataFrame]:
    """Blocks of rows, every column text, null where empty; RFC 4180 quotes.

    Args:
        header: column names of a file that has no header line; None: the first line is the header.

    Polars reads a block at once. Where it refuses one, each row of that block is read by itself; a row with more or
    fewer fields than columns is counted as bad.

    Raises:
        UserError: see `blocks` and `LineGuard`; or the header names a column twice.
    """
    guard = LineGuard(file, quality, max_bad, f"{'comma' if separator == ',' else 'tab'}-separated rows")
    names = list(header) if header else None
    for block in blocks(file, quoted=True):
        if names is None:
            names, block = _header(block, file, separator)
            if not block.data:
                yield pl.DataFrame(schema=dict.fromkeys(names, pl.String))
                continue
        frame = _rows(block, names, separator, guard)
        guard.seen(0)
        yield frame
    if names is None or header:
        guard.finish()


def header_of(file: RawFile, separator: str = ",") -> list[str]:
    """Column names in the file's first line.

    Raises:
        UserError: the file is empty or its first line is no header.
    """
    for block in blocks(file, quoted=True):
        return _header(block, file, separator)[0]
    raise UserError(f"{file.name} is empty; expected a header line. Check {file.source}.")


def _header(block: Block, file: RawFile, separator: str) -> tuple[list[str], Block]:
    reader = csv.reader(io.StringIO(block.data.decode(errors="replace"), newline=""), delimiter=separator)
    try:
        names = [name.strip() for name in next(reader)]
    except (csv.Error, StopIteration) as error:
        raise UserError(f"{file.name}: the first line is no header ({error}). Check {file.source}.") from error
    if not any(names):
        raise UserError(f"{file.name}: the first line is blank; expected column names. Check {file.source}.")
    if len(set(names)) != len(names):
        raise UserError(f"{file.name}: the header names a column twice: {', '.join(names)}. Rename one.")
    taken = 0
    for _ in range(reader.line_num):
        taken = block.data.find(b"\n", taken) + 1 or len(block.data)
    return names, Block(block.data[taken:], block.first_line + reader.line_num)


def _rows(block: Block, names: list[str], separator: str, guard: LineGuard) -> pl.DataFrame:
    schema = dict.fromkeys(names, pl.String)
    try:
        frame = pl.read_csv(
            io.BytesIO(block.data), has_header=False, schema=schema, separator=separator, raise_if_empty=False
        )
    except pl.exceptions.PolarsError:
        return _row_by_row(block, names, separator, guard)
    guard.lines += len(frame)
    return frame


def _row_by_row(block: Block, names: list[str], separator: str, guard: LineGuard) -> pl.DataFrame:
    text = io.StringIO(block.data.decode(errors="replace"), newline="")
    reader = csv.reader((line.replace("\0", "") for line in text), delimiter=separator)
    rows: list[list[str | None]] = []
    while True:
        number = block.first_line + reader.line_num
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            guard.lines += 1
            guard.bad(number, str(error))
            continue
        if not row:
            continue
        guard.lines += 1
        if len(row) != len(names) or any("\ufffd" in value for value in row):
            reason = "not UTF-8" if len(row) == len(names) else f"{len(row)} fields where {len(names)} are expected"
            guard.bad(number, reason)
        else:
            rows.append([value or None for value in row])
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")
