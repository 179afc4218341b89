"""One record per line: JSON, or the Python literals of Amazon's release of 2014, which are never evaluated; or all
records in one JSON array."""

import ast
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import polars as pl

from pipeline.ingest.files import json_array
from pipeline.ingest.files.lines import Block, LineGuard, blocks
from pipeline.ingest.files.streams import UTF8
from pipeline.ingest.paths import value_at
from pipeline.ingest.raw import RawFile
from pipeline.ingest.tally import Quality
from schemas.errors import UserError

MAX_LITERAL = 1 << 20
"""Bytes; a longer line is not parsed as a Python literal."""
EXPECTED = "one JSON object per line"
ROWS = 1 << 14
"""Records of an array in one batch."""
_EXTENDED = frozenset(["$oid", "$numberLong", "$numberInt", "$numberDouble", "$numberDecimal", "$date", "$uuid"])

Record = dict[str, Any]


def parse_json(line: bytes) -> Record:
    """One JSON object.

    Raises:
        ValueError: it is anything else.
    """
    try:
        record = json.loads(line.decode(errors="surrogatepass"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError(f"a {type(record).__name__}, not an object")
    return record


def parse_literal(line: bytes) -> Record:
    """One Python dict literal, or one JSON object.

    In a line without double quotes and backslashes, single quotes only enclose strings. With double quotes in their
    place the line is equal JSON, which is parsed thirty times as fast as a literal.

    Raises:
        ValueError: it is anything else, longer than `MAX_LITERAL`, or nested too deeply.
    """
    if b'"' not in line and b"\\" not in line:
        try:
            return parse_json(line.replace(b"'", b'"'))
        except ValueError:
            pass  # None, True or a tuple: rare, so they may be slow
    elif line.lstrip().startswith(b'{"'):
        try:
            return parse_json(line)
        except ValueError:
            pass
    if len(line) > MAX_LITERAL:
        raise ValueError(f"a literal longer than {MAX_LITERAL} bytes")
    try:
        record = ast.literal_eval(line.decode().strip())
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"not a literal: {type(error).__name__}") from error
    if not isinstance(record, dict):
        raise ValueError(f"a {type(record).__name__}, not a dict")
    return record


def records(
    file: RawFile, quality: Quality, max_bad: float, *, literal: bool = False, encoding: str = UTF8
) -> Iterator[Record]:
    """Every record of the file in order. Lines that are no record are counted, blank ones skipped.

    Raises:
        UserError: the file ends within a record; else see `blocks` and `LineGuard`.
    """
    if json_array.is_array(file, encoding):
        yield from json_array.records(file, quality, max_bad, encoding)
        return
    parse = parse_literal if literal else parse_json
    guard = LineGuard(file, quality, max_bad, EXPECTED)
    for block in blocks(file, encoding=encoding):
        lines = block.data.split(b"\n")
        for number, line in enumerate(lines, block.first_line):
            if not line or line.isspace():
                continue
            guard.lines += 1
            try:
                record = parse(line)
            except ValueError as error:
                _count_bad(guard, block, number, line, error)
                continue
            yield record
        guard.check()
    guard.finish()


def columns(
    file: RawFile, names: Iterable[str], quality: Quality, max_bad: float, *, encoding: str = UTF8
) -> Iterator[pl.DataFrame]:
    """Some fields of every record as text, a block at a time; null if absent, numbers as JSON writes them. MongoDB's
    `{"$oid": "…"}` and the like are what they hold.

    Polars reads a block at once. If it refuses one, or a text looks like an object or a list, each line of that block
    is parsed by itself; so is every line if a name has a point in it, which may be a path (`paths.value_at`).

    Raises:
        UserError: a field holds an object or a list; else see `records`.
    """
    schema = dict.fromkeys(names, pl.String)
    if json_array.is_array(file, encoding):
        every = enumerate(json_array.records(file, quality, max_bad, encoding), 1)
        while batch := list(islice(every, ROWS)):
            rows = [_row(record, schema, file, f"record {number}") for number, record in batch]
            yield pl.DataFrame(rows, schema=schema, orient="row")
        return
    guard = LineGuard(file, quality, max_bad, EXPECTED)
    may_be_paths = any("." in name for name in schema)
    for block in blocks(file, encoding=encoding):
        frame = None if may_be_paths else _at_once(block, schema)
        if frame is None:
            frame = _line_by_line(block, schema, guard)
        else:
            guard.lines += len(frame)
        guard.check()
        yield frame
    guard.finish()


def _at_once(block: Block, schema: Mapping[str, Any]) -> pl.DataFrame | None:
    """All records by polars; None if it refuses them, or a text may be an object."""
    try:
        frame = pl.read_ndjson(io.BytesIO(block.data), schema=schema)
    except pl.exceptions.PolarsError:
        return None
    return None if _may_hold_objects(frame) else frame


def _may_hold_objects(frame: pl.DataFrame) -> bool:
    begins = pl.all().str.starts_with("{") | pl.all().str.starts_with("[")
    return any(frame.select(begins.any()).row(0))


def _count_bad(guard: LineGuard, block: Block, number: int, line: bytes, error: ValueError) -> None:
    foreign = line if isinstance(error, UnicodeDecodeError) else b""
    if number == 1 and line.strip() == b"{":
        raise UserError(
            f"{guard.file.name} is one JSON object over several lines; expected {guard.expected}, or an array of "
            f"objects. Write its records so ({guard.file.source})."
        )
    is_csv = number == 1 and not line.lstrip().startswith((b"{", b"[")) and any(mark in line for mark in b",;\t")
    reason = "it looks like CSV: give the file a name that ends in .csv" if is_csv else str(error)
    guard.bad(number, reason, cut_off=not foreign and block.ends_within(line), foreign=foreign)


def _line_by_line(block: Block, schema: Mapping[str, Any], guard: LineGuard) -> pl.DataFrame:
    rows = []
    for number, line in enumerate(block.data.split(b"\n"), block.first_line):
        if not line or line.isspace():
            continue
        guard.lines += 1
        try:
            record = parse_literal(line)
        except ValueError as error:
            _count_bad(guard, block, number, line, error)
            continue
        rows.append(_row(record, schema, guard.file, f"line {number}"))
    return pl.DataFrame(rows, schema=schema, orient="row")


def _row(record: Record, schema: Mapping[str, Any], file: RawFile, place: str) -> dict[str, str | None]:
    values = {name: value_at(record, name) for name in schema}
    for name, value in values.items():
        refuse_nested(value, name, file, place)
    return {name: as_text(value) for name, value in values.items()}


def refuse_nested(value: Any, name: str, file: RawFile, place: str) -> None:
    """Refuse an object or a list where one value belongs, as in Parquet.

    Raises:
        UserError: it is one.
    """
    if isinstance(scalar(value), dict | list | tuple):
        shown = json.dumps(value, ensure_ascii=False, default=str)[:60]
        raise UserError(
            f"{file.name}: expected a number, text or date for {name}; found {shown} in {place}. Name another column "
            "in the source's mapping, or mend the file."
        )


def scalar(value: Any) -> Any:
    """The value itself, or what an object of MongoDB's extended JSON holds: `{"$oid": "5f…"}` is `5f…`."""
    while isinstance(value, dict) and len(value) == 1:
        ((name, inside),) = value.items()
        if name not in _EXTENDED:
            return value
        value = inside
    return value


def as_text(value: Any) -> str | None:
    """A scalar as text, whole floats without their point; None for an empty text and for anything else."""
    if isinstance(value, str) and value.isascii():  # mostly
        return value or None
    value = scalar(value)
    if isinstance(value, str):
        # A lone surrogate is legal in JSON's escapes but not in UTF-8.
        return value.encode(errors="replace").decode() or None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return str(int(value)) if value == int(value) else str(value)
    except (ValueError, OverflowError):  # NaN, infinity, or more digits than Python converts
        return None


def nested(value: Any, depth: int) -> bool:
    """Whether a value holds an object, or lists nested deeper than `depth`, instead of texts."""
    if isinstance(value, list | tuple):
        return depth == 0 or any(not isinstance(each, str) and nested(each, depth - 1) for each in value)
    return isinstance(scalar(value), dict)
