"""Comma- or tab-separated files as columns of text, a block at a time."""

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
    """Blocks of rows. Every column is text, null if empty; quotes are those of RFC 4180.

    Polars reads a block at once. If it refuses the block, or the numbers of rows and fields do not agree with those of
    line ends and separators, Python's reader reads the block. If quotes do not pair, each line is read by itself. A row
    with more or fewer fields than columns is bad, and each of its lines is counted.

    Two stray quotes may pair and hide the rows between them, which cannot be told from a text of several lines. So a
    line within quotes that has as many separators as a row is counted as `quoted_line_like_a_row`, and stays text.

    Args:
        header: column names of a file that has no header line; None: the first line is the header.

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
        guard.check()
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
    end = 0
    for _ in range(reader.line_num):
        end = block.data.find(b"\n", end) + 1 or len(block.data)
    return names, Block(block.data[end:], block.first_line + reader.line_num)


def _rows(block: Block, names: list[str], separator: str, guard: LineGuard) -> pl.DataFrame:
    schema = dict.fromkeys(names, pl.String)
    frame: pl.DataFrame | None = None
    with contextlib.suppress(pl.exceptions.PolarsError):  # then it is read row by row, which finds each bad row
        frame = pl.read_csv(
            io.BytesIO(block.data), has_header=False, schema=schema, separator=separator, raise_if_empty=False
        )
    if frame is None or not _is_complete(block, frame, separator):
        return _row_by_row(block, names, separator, guard)
    guard.lines += len(frame)
    return frame


def _is_complete(block: Block, frame: pl.DataFrame, separator: str) -> bool:
    """Whether every line became a row, and every separator lies between two fields or within one. Else polars has read
    on from a stray quote to the next, or has padded a short row with empty fields."""
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
    """Rows, each with the number of its first line and of the line after its last. If quotes do not pair, each line is
    a row, and bad ones are counted."""
    reader = csv.reader(lines, delimiter=separator, strict=True)
    rows, start = [], first
    try:
        for row in reader:
            rows.append((start, first + reader.line_num, row))
            start = first + reader.line_num
    except csv.Error:
        rows = []
        for number, line in enumerate(lines, first):
            try:
                rows += [(number, number + 1, row) for row in csv.reader([line], delimiter=separator, strict=True)]
            except csv.Error as error:
                guard.lines += 1
                guard.bad(number, str(error))
    yield from rows
