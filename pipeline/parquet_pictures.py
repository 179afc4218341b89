"""Pictures as bytes in a column of a Parquet or Arrow file: their addresses, and their reading, best in row order.

An address is that of the file with a fragment: `file:///shop/items.parquet#column=image&row=7`, in a list also
`&place=0`. Nothing is copied: the images stage reads where the catalogue's bytes lie.
"""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import arrow_file

READ_BYTES = 1 << 20
"""Bytes read at a time."""
ROWS, BLOCKS = 16, 4
"""Rows that are decoded together, and the blocks of rows that stay in memory: more than the requests that are in flight
for one host."""
COLUMNS = 4
"""Columns, of one file or several, that are read at the same time."""


def address(file_url: str, column: str, row: int, place: int | None = None) -> str:
    """Where one picture lies: `row` counts from 0, and so does `place` in a list of pictures."""
    where: dict[str, object] = {"column": column, "row": row} | ({} if place is None else {"place": place})
    return f"{file_url}#{urlencode(where)}"


class ParquetPictures:
    """Reads pictures by the fragments of their addresses. Threads may share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._columns: OrderedDict[tuple[Path, str], _Column | _ArrowColumn] = OrderedDict()

    def read(self, path: Path, fragment: str) -> bytes:
        """The bytes of one picture.

        Raises:
            LookupError: there is no such picture.
            ValueError: the fragment is no such address.
            OSError, pyarrow.ArrowException: the file cannot be read, or is no Parquet file.
        """
        where = {name: values[0] for name, values in parse_qs(fragment).items()}
        name, row = where["column"], int(where["row"])
        with self._lock:
            value = self._column(path, name).value(row)
        if "place" in where and isinstance(value, list):
            value = value[int(where["place"])]
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise LookupError(f"no picture in row {row} of column {name}")
        return content

    def _column(self, path: Path, name: str) -> "_Column | _ArrowColumn":
        kind = _ArrowColumn if path.suffix.lower() == ".arrow" else _Column
        column = self._columns.pop((path, name), None) or kind(path, name)
        self._columns[path, name] = column
        if len(self._columns) > COLUMNS:
            self._columns.popitem(last=False)
        return column


def _within(value: Any, path: list[str]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


class _ArrowColumn:
    """One column of an Arrow file. In memory are the last batch and the rows before it that requests in flight may ask
    for; a row that is not among them makes it begin again with the row's batch."""

    def __init__(self, path: Path, name: str) -> None:
        self._file = path
        names = arrow_file.schema(path).names
        self._root, *self._path = [name] if name in names else name.split(".")
        if self._root not in names:
            raise LookupError(f"no column {self._root}")
        self._ends: list[int] = []  # of every batch that was read once, the number of the row after it
        self._begin(0)

    def value(self, row: int) -> Any:
        if row < 0:
            raise LookupError(f"no row {row}")
        start = _block_of(row, self._blocks)
        if start is None:
            start = self._read_until(row)
        return _within(self._blocks[start][row - start].as_py(), self._path)

    def _begin(self, batch: int) -> None:
        self._blocks: OrderedDict[int, pa.Array] = OrderedDict()  # number of the first row → its batch
        self._next = batch
        self._coming = arrow_file.batches(self._file, [self._root], batch)

    def _read_until(self, row: int) -> int:
        """Read on until the row is in memory; returns the first row of its batch."""
        if (batch := bisect_right(self._ends, row)) != self._next:
            self._begin(batch)
        for block in self._coming:
            start = self._ends[self._next - 1] if self._next else 0
            if self._next == len(self._ends):
                self._ends.append(start + len(block))
            self._next += 1
            self._blocks[start] = block.column(0)
            while sum(map(len, self._blocks.values())) - len(block) - len(self._oldest) >= ROWS * BLOCKS:
                self._blocks.popitem(last=False)
            if row < start + len(block):
                return start
        raise LookupError(f"no row {row}")

    @property
    def _oldest(self) -> pa.Array:
        return next(iter(self._blocks.values()))


def _block_of(row: int, blocks: Mapping[int, pa.Array]) -> int | None:
    """The first row of the block that has a row."""
    return next((first for first, block in blocks.items() if first <= row < first + len(block)), None)


class _Column:
    """One column, which is gone through once if the rows are asked for in about their order: a row before those in
    memory makes it begin again with the row's group."""

    def __init__(self, path: Path, name: str) -> None:
        self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES)
        is_whole = name in self._file.schema_arrow.names
        self._root, *self._path = [name] if is_whole else name.split(".")
        groups = range(self._file.metadata.num_row_groups)
        self._ends = list(accumulate(self._file.metadata.row_group(group).num_rows for group in groups))
        self._blocks: OrderedDict[int, pa.Array] = OrderedDict()  # number of the first row → its block
        self._coming: Iterator[pa.RecordBatch] = iter(())
        self._next = self._end = 0  # rows of the current group that are still to come

    def value(self, row: int) -> Any:
        if not 0 <= row < (self._ends or [0])[-1]:
            raise LookupError(f"no row {row}")
        start = _block_of(row, self._blocks)
        if start is None:
            start = self._read_until(row)
        return _within(self._blocks[start][row - start].as_py(), self._path)

    def _read_until(self, row: int) -> int:
        """Read on until the row is in memory; returns the first row of its block."""
        if not self._next <= row < self._end:
            group = bisect_right(self._ends, row)
            self._next, self._end = self._ends[group - 1] if group else 0, self._ends[group]
            self._coming = self._file.iter_batches(ROWS, row_groups=[group], columns=[self._root], use_threads=False)
        while True:
            start, block = self._next, next(self._coming).column(0)
            self._next += len(block)
            self._blocks[start] = block
            while len(self._blocks) > BLOCKS:
                self._blocks.popitem(last=False)
            if row < self._next:
                return start
