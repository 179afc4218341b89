"""One record a line: JSON, or the Python literals of the Amazon 2014 release, never evaluated."""

import ast
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import polars as pl

from pipeline.ingest.files.lines import Block, LineGuard, blocks
from pipeline.ingest.raw import RawFile
from pipeline.ingest.tally import Quality

MAX_LITERAL = 1 << 20
"""Bytes of a line that is parsed as a Python literal."""

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

    A line without double quotes and backslashes has single quotes around its strings only, so turning them into
    double ones gives equal JSON, which is read thirty times as fast as a literal.

    Raises:
        ValueError: it is anything else, longer than `MAX_LITERAL`, or nested too deeply.
    """
    if b'"' not in line and b"\\" not in line:
        try:
            return parse_json(line.replace(b"'", b'"'))
        except ValueError:
            pass  # None, True, a tuple: rare enough to take the slow way
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


def records(file: RawFile, quality: Quality, max_bad: float, *, literal: bool = False) -> Iterator[Record]:
    """Every record of the file in order; lines that are none are counted, blank ones passed over.

    Raises:
        UserError: the file ends within a record; else see `blocks` and `LineGuard`.
    """
    parse = parse_literal if literal else parse_json
    guard = LineGuard(file, quality, max_bad, "one JSON object a line")
    for block in blocks(file):
        lines = block.data.split(b"\n")
        for number, line in enumerate(lines, block.first_line):
            if not line or line.isspace():
                continue
            guard.lines += 1
            try:
                record = parse(line)
            except ValueError as error:
                guard.bad(number, str(error), cut_off=block.ends_within(line))
                continue
            yield record
        guard.seen(0)
    guard.finish()


def columns(file: RawFile, names: Iterable[str], quality: Quality, max_bad: float) -> Iterator[pl.DataFrame]:
    """Some fields of every record as text, a block at a time, null where absent; numbers as JSON writes them.

    Polars reads a block at once. Where it refuses one, each line of that block is parsed by itself.
    """
    guard = LineGuard(file, quality, max_bad, "one JSON object a line")
    schema = dict.fromkeys(names, pl.String)
    for block in blocks(file):
        try:
            frame = pl.read_ndjson(io.BytesIO(block.data), schema=schema)
            guard.lines += len(frame)
        except pl.exceptions.PolarsError:
            frame = _line_by_line(block, schema, guard)
        guard.seen(0)
        yield frame
    guard.finish()


def _line_by_line(block: Block, schema: Mapping[str, Any], guard: LineGuard) -> pl.DataFrame:
    rows = []
    for number, line in enumerate(block.data.split(b"\n"), block.first_line):
        if not line or line.isspace():
            continue
        guard.lines += 1
        try:
            record = parse_literal(line)
        except ValueError as error:
            guard.bad(number, str(error), cut_off=block.ends_within(line))
            continue
        rows.append({name: as_text(record.get(name)) for name in schema})
    return pl.DataFrame(rows, schema=schema, orient="row")


def as_text(value: Any) -> str | None:
    """A scalar as text, whole floats without their point; None for what is empty or no scalar."""
    if isinstance(value, str):
        if value.isascii():
            return value or None
        # A lone surrogate is legal in JSON's escapes but not in UTF-8.
        return value.encode(errors="replace").decode() or None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return str(int(value)) if value == int(value) else str(value)
    except (ValueError, OverflowError):  # NaN, infinity, or more digits than Python writes
        return None


def nested(value: Any, depth: int) -> bool:
    """Whether an object, or a list in more than `depth` lists, stands where texts are expected: it is not read."""
    if isinstance(value, list | tuple):
        return depth == 0 or any(nested(each, depth - 1) for each in value)
    return isinstance(value, dict)
