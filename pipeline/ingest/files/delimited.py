"""Comma- or tab-separated files as text columns, a block at a time."""

import contextlib
import csv
import io
from collections.abc import Iterator, Sequence

import polars as pl

from pipeline.ingest.files.lines import Block, LineGuard, blocks
from pipeline.ingest.raw import RawFile
from pipeline.ingest.tally import Quality
from schemas.errors import UserError


def tables(
    file: RawFile, quality: Quality, max_bad: float, *, header: Sequence[str] | None = None, separator: str = ","
) -> Iterator[pl.DataFrame]:
    """Blocks of rows, every column text, null where empty; RFC 4180 quotes.

    Args:
        header: column names of a file that has no header line; None: the first line is the header.

    Polars reads a block at once. Where it refuses one, or finds other numbers of rows and fields than there are line
    ends and separators, Python's reader takes that block; where a quote in it is not closed as it should be, each line
    stands for itself. A row with more or fewer fields than columns is counted as bad, every line of it. Two stray
    quotes may pair and hide the rows between them, which nothing tells from a text of several lines for certain: lines
    within quotes that have as many separators as a row are counted as `quoted_line_like_a_row` and stay text.

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
    frame: pl.DataFrame | None = None
    with contextlib.suppress(pl.exceptions.PolarsError):  # row by row, each bad one gets its reason
        frame = pl.read_csv(
            io.BytesIO(block.data), has_header=False, schema=schema, separator=separator, raise_if_empty=False
        )
    if frame is None or not _whole(block, frame, separator):
        return _row_by_row(block, names, separator, guard)
    guard.lines += len(frame)
    return frame


def _whole(block: Block, frame: pl.DataFrame, separator: str) -> bool:
    """Whether every line became a row and every separator is between two fields or in one: polars reads from a stray
    quote on to the next one, and short rows as if they ended in empty fields."""
    if len(frame) != block.lines:
        return False
    within = 0
    if b'"' in block.data:
        counts = frame.select(pl.all().str.count_matches(separator, literal=True).sum())
        within = sum(count or 0 for count in counts.row(0))
    return block.data.count(separator.encode()) == len(frame) * (frame.width - 1) + within


def _row_by_row(block: Block, names: list[str], separator: str, guard: LineGuard) -> pl.DataFrame:
    text = block.data.decode(errors="replace").replace("\0", "")
    lines = list(io.StringIO(text, newline=""))
    rows: list[list[str | None]] = []
    for start, end, row in _numbered(lines, block.first_line, separator, guard):
        if not row:
            continue
        guard.lines += end - start
        if len(row) != len(names) or any("\ufffd" in value for value in row):
            reason = "not UTF-8" if len(row) == len(names) else f"{len(row)} fields where {len(names)} are expected"
            for number in range(start, end):
                guard.bad(number, reason)
        else:
            rows.append([value or None for value in row])
            for number in range(start + 1, end):
                if lines[number - block.first_line].count(separator) == len(names) - 1:
                    guard.quality.add(guard.file.name, "quoted_line_like_a_row", "kept", 1, (f"line {number}",))
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


def _numbered(lines: list[str], first: int, separator: str, guard: LineGuard) -> Iterator[tuple[int, int, list[str]]]:
    """Rows with the numbers of their first line and of the one after their last; lines of their own, bad ones counted,
    where quotes do not pair."""
    reader = csv.reader(lines, delimiter=separator, strict=True)
    found, start = [], first
    try:
        for row in reader:
            found.append((start, first + reader.line_num, row))
            start = first + reader.line_num
    except csv.Error:
        found = []
        for number, line in enumerate(lines, first):
            try:
                found += [(number, number + 1, row) for row in csv.reader([line], delimiter=separator, strict=True)]
            except csv.Error as error:
                guard.lines += 1
                guard.bad(number, str(error))
    yield from found
