"""Files of rows with separators as columns of text, a block at a time."""

import contextlib
import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.ingest.files.lines import Block, LineGuard, blocks
from pipeline.ingest.files.streams import UTF8
from pipeline.ingest.raw import RawFile
from pipeline.ingest.tally import Quality
from schemas.errors import UserError
from schemas.sources import plain_name

MAX_FIELD = 1 << 20
"""Characters of a field at most; a longer one is a quote that was never closed."""
LONGEST_HEADER = 1 << 20
"""Bytes."""
ATOMIC, TYPED = (".inter", ".item"), re.compile(r":(token|float)(_seq)?$")
"""Ends of the names of RecBole's atomic files, and what these write after each name in the header."""
NAMES = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar", " ": "blank"}
_QUOTE, _FEED, _RETURN = b'"\n\r'


def tables(
    file: RawFile,
    quality: Quality,
    max_bad: float,
    *,
    header: Sequence[str] | None = None,
    separator: str = ",",
    encoding: str = UTF8,
    names: Collection[str] | None = None,
) -> Iterator[pl.DataFrame]:
    """Blocks of rows. Every column is text, null if empty; quotes are those of RFC 4180. A separator of several
    characters has no quotes: every line is a row.

    What is read is what Python's csv reads in its strict mode. Polars reads a block at once, if all its quotes and line
    ends are regular and every row has as many fields as there are columns; else csv does. After a row that it refuses,
    csv goes on with the next line: a bad row costs itself. A row with more or fewer fields than columns is bad, and
    each of its lines is counted.

    Two stray quotes may pair and hide the rows between them, which cannot be told from a text of several lines. So a
    line within quotes that has as many separators as a row is counted as `quoted_line_like_a_row`, and stays text.

    Args:
        header: column names of a file that has no header line; None: the first line is the header.
        names: the columns that are asked for, which the header must name once; None: all.

    Raises:
        UserError: see `blocks` and `LineGuard`; or the header names a column twice.
    """
    csv.field_size_limit(MAX_FIELD)
    name = NAMES.get(separator, repr(separator))
    guard = LineGuard(file, quality, max_bad, f"{name}-separated rows")
    reader = _Reader(separator, guard, list(header) if header else [])
    if header:
        _refuse_repeated(reader.names, names, file)
    for block, is_last in _with_last(blocks(file, encoding=encoding, keep_returns=True)):
        data = reader.carried + block.data
        if not reader.names:
            header_names, data, lines = _header(data, file, separator)
            _refuse_repeated(header_names, names, file)
            reader.names, reader.line = _unique(header_names), 1 + lines
        frame = reader.rows(data, is_last=is_last) if data else pl.DataFrame(schema=reader.schema)
        guard.check()
        yield frame
    if guard.lines or not reader.names or header:
        guard.finish()


def header_of(file: RawFile, separator: str = ",", encoding: str = UTF8) -> list[str]:
    """Column names in the file's first line, without columns that have none.

    Raises:
        UserError: the file is empty or its first line is no header.
    """
    for block in blocks(file, encoding=encoding, keep_returns=True, size=LONGEST_HEADER):
        names, _, _ = _header(block.data, file, separator)
        return [name for name in names if name]
    raise UserError(f"{file.name} is empty; expected a header line. Check {file.source}.")


def _header(data: bytes, file: RawFile, separator: str) -> tuple[list[str], bytes, int]:
    """The names in the first line, what follows it, and how many lines it takes (a name may hold a line break)."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in _text(data[:LONGEST_HEADER]):
            taken.append(line)
            yield line

    rows = _split(lines(), separator) if len(separator) > 1 else csv.reader(lines(), delimiter=separator)
    try:
        names = [name.strip() for name in next(rows)]
    except (csv.Error, StopIteration) as error:
        raise UserError(f"{file.name}: the first line is no header ({error}). Check {file.source}.") from error
    if not any(names):
        raise UserError(f"{file.name}: the first line is blank; expected column names. Check {file.source}.")
    if plain_name(file.name).endswith(ATOMIC):
        names = [TYPED.sub("", name) for name in names]
    end = sum(len(_bytes(line)) for line in taken)
    return [_printable(name) for name in names], data[end:], len(taken)


def _split(lines: Iterable[str], separator: str) -> Iterator[list[str]]:
    """Lines as rows, without quotes."""
    return (line.rstrip("\r\n").split(separator) for line in lines)


def _printable(name: str) -> str:
    return _bytes(name).decode(errors="replace")


def _refuse_repeated(present: Sequence[str], names: Collection[str] | None, file: RawFile) -> None:
    repeated = [name for name, count in Counter(present).items() if count > 1 and (names is None or name in names)]
    if repeated:
        raise UserError(f"{file.name}: the header names a column twice: {', '.join(present)}. Rename one.")


def _unique(names: Sequence[str]) -> list[str]:
    """The names, in which one without a name or with another's has one that no header has: with a line break around."""
    return [name if name and name not in names[:place] else f"\n{place}\n" for place, name in enumerate(names)]


def _with_last(parts: Iterator[Block]) -> Iterator[tuple[Block, bool]]:
    """Each block, and whether it is the last."""
    before = None
    for part in parts:
        if before is not None:
            yield before, False
        before = part
    if before is not None:
        yield before, True


def _lines(data: bytes) -> list[str]:
    """Lines as csv counts them: a carriage return alone ends one. Bytes that are not UTF-8 become surrogates."""
    return list(_text(data))


def _text(data: bytes) -> io.StringIO:
    return io.StringIO(data.decode(errors="surrogateescape"), newline="")


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


@dataclass
class _Reader:
    """Rows of one file, block by block.

    Attributes:
        carried, carried_lines: the bytes of a row that the block ended within, and its lines.
        line: number of the line that comes next.
    """

    separator: str
    guard: LineGuard
    names: list[str]
    carried: bytes = b""
    line: int = 1
    carried_lines: int = 0

    @property
    def schema(self) -> dict[str, type[pl.String]]:
        """Every column is text."""
        return dict.fromkeys(self.names, pl.String)

    def rows(self, data: bytes, *, is_last: bool) -> pl.DataFrame:
        """The rows of a block that begins with one."""
        self.carried = b""
        if len(self.names) > 1 and (shape := _shape(data, self.separator.encode(), len(self.names))):
            if shape.end < len(data) and not is_last:
                data, self.carried = data[: shape.end], data[shape.end :]
            if shape.end == len(data) and (frame := self._at_once(data, shape)) is not None:
                return frame
            data, self.carried = data + self.carried, b""
        return self._row_by_row(data, is_last=is_last)

    def _at_once(self, data: bytes, shape: "_Shape") -> pl.DataFrame | None:
        """All rows by polars; None if it refuses them."""
        frame = None
        with contextlib.suppress(pl.exceptions.PolarsError):
            frame = pl.read_csv(
                io.BytesIO(data),
                has_header=False,
                schema=self.schema,
                separator=self.separator,
                raise_if_empty=False,
            )
        if frame is None or len(frame) != shape.rows:
            return None
        for number in shape.lines_like_rows:
            self.guard.quality.add(
                self.guard.file.name, "quoted_line_like_a_row", "kept", 1, (f"line {self.line + number}",)
            )
        self.guard.lines += len(frame)
        self.line += shape.lines
        return frame

    def _row_by_row(self, data: bytes, *, is_last: bool) -> pl.DataFrame:
        lines = _lines(data)
        rows: list[list[str | None]] = []
        self.carried_lines = 0
        for start, end, row in self._strict(lines, is_last=is_last):
            if row:
                self._take(rows, lines, start, end, row)
        self.line += len(lines) - self.carried_lines
        return pl.DataFrame(rows, schema=self.schema, orient="row")

    def _strict(self, lines: list[str], *, is_last: bool) -> Iterator[tuple[int, int, list[str]]]:
        """Rows, each with the places of its first line and of the line after its last. A line at which csv fails is
        counted, and the line after it begins a new row. What the block ends within is carried to the next."""
        start = 0
        if len(self.separator) > 1:
            yield from ((place, place + 1, row) for place, row in enumerate(_split(lines, self.separator)) if any(row))
            return
        while start < len(lines):
            reader = csv.reader(lines[start:] if start else lines, delimiter=self.separator, strict=True)
            first = start
            try:
                for row in reader:
                    end = first + reader.line_num
                    yield start, end, row
                    start = end
            except csv.Error as error:
                is_open = first + reader.line_num >= len(lines) and "unexpected end" in str(error)
                if is_open and not is_last:
                    self.carried = _bytes("".join(lines[start:]))
                    self.carried_lines = len(lines) - start
                    return
                self.guard.lines += 1
                self._bad(start, lines[start], str(error))
                start += 1

    def _take(self, rows: list[list[str | None]], lines: list[str], start: int, end: int, row: list[str]) -> None:
        self.guard.lines += end - start
        reason = f"{len(row)} fields where {len(self.names)} are expected" if len(row) != len(self.names) else ""
        if not reason and any(not value.isascii() and _is_foreign(value) for value in row):
            reason = "not UTF-8"
        if reason:
            for place in range(start, end):
                self._bad(place, lines[place], reason)
            return
        rows.append([value or None for value in row])
        for place in range(start + 1, end):
            if lines[place].count(self.separator) == len(self.names) - 1:
                number = f"line {self.line + place}"
                self.guard.quality.add(self.guard.file.name, "quoted_line_like_a_row", "kept", 1, (number,))

    def _bad(self, place: int, line: str, reason: str) -> None:
        self.guard.bad(self.line + place, reason, foreign=_bytes(line) if _is_foreign(line) else b"")


def _is_foreign(text: str) -> bool:
    """Whether bytes of the text were not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


@dataclass(frozen=True)
class _Shape:
    """The regular rows of a block.

    Attributes:
        end: position after the last whole row.
        rows, lines: numbers of rows, and of lines in them.
        lines_like_rows: numbers, from 0, of lines within quotes that have as many separators as a row.
    """

    end: int
    rows: int
    lines: int
    lines_like_rows: list[int]


def _shape(data: bytes, separator: bytes, width: int) -> _Shape | None:
    """The block's shape, if polars reads it as csv does; else None.

    So it is if no quote stands elsewhere than around a field or doubled within one, no carriage return ends a line, no
    line is blank, and the separators outside quotes are one less than the columns in every row.
    """
    if len(separator) > 1 or b"\0" in data:
        return None
    if b'"' not in data:
        end = len(data)
        rows = data.count(b"\n") + (not data.endswith(b"\n"))
        if data.count(b"\r") != data.count(b"\r\n") or data.count(separator) != rows * (width - 1):
            return None
        return _Shape(end, rows, rows, [])
    return _quoted_shape(np.frombuffer(data, np.uint8), separator[0], width)


def _quoted_shape(data: NDArray[np.uint8], separator: int, width: int) -> _Shape | None:
    is_quote = data == _QUOTE
    within = np.logical_xor.accumulate(is_quote)  # from an opening quote to before the closing one
    feeds = np.flatnonzero(data == _FEED)
    outer = feeds[~within[feeds]]
    quotes = np.flatnonzero(is_quote)
    end = len(data)
    if within[-1]:  # the block ends within a field
        if not len(outer):
            return None
        end = int(outer[-1]) + 1
        data, quotes, feeds = data[:end], quotes[quotes < end], feeds[feeds < end]
    if len(quotes) % 2 or not _regular(data, quotes, separator):
        return None
    if len(quotes) and (quotes[1::2] - quotes[0::2]).max() > MAX_FIELD:
        return None
    returns = np.flatnonzero(data == _RETURN)
    outer_returns = returns[~within[returns]]
    if len(outer_returns) and (outer_returns[-1] + 1 >= end or (data[outer_returns + 1] != _FEED).any()):
        return None
    separators = np.flatnonzero(data == separator)
    ends_with_row = len(outer) > 0 and int(outer[-1]) + 1 == end
    rows = len(outer) + (not ends_with_row)
    if int((~within[separators]).sum()) != rows * (width - 1):
        return None
    like = _lines_like_rows(separators, feeds, within, end, width)
    return _Shape(end, rows, len(feeds) + (not ends_with_row), like)


def _regular(data: NDArray[np.uint8], quotes: NDArray[np.intp], separator: int) -> bool:
    """Whether each opening quote begins a field and each closing one ends it, or the two are a doubled quote."""
    opening, closing = quotes[0::2], quotes[1::2]
    before = np.where(opening > 0, data[opening - 1], _FEED)
    after = data[np.minimum(closing + 1, len(data) - 1)]
    after = np.where(closing + 1 < len(data), after, _FEED)
    return bool(
        np.isin(before, (separator, _FEED, _QUOTE)).all() and np.isin(after, (separator, _FEED, _RETURN, _QUOTE)).all()
    )


def _lines_like_rows(
    separators: NDArray[np.intp], feeds: NDArray[np.intp], within: NDArray[np.bool_], end: int, width: int
) -> list[int]:
    bounds = np.concatenate([[0], feeds + 1, [end]])
    counts = np.diff(np.searchsorted(separators, bounds))
    begins_within = np.concatenate([[False], within[feeds]])[: len(counts)]
    places: list[int] = np.flatnonzero(begins_within & (counts == width - 1)).tolist()
    return places
