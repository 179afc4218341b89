"""Parquet and Arrow files, a batch of bounded size at a time."""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ArrowException

from pipeline import arrow_file
from pipeline.ingest.files.streams import foreign
from pipeline.ingest.paths import value_at
from pipeline.ingest.raw import RawFile
from pipeline.parquet_pictures import address
from pipeline.store import READ_BYTES
from schemas.errors import UserError

BATCH_BYTES = 64 << 20
"""Uncompressed bytes of a batch at most, as far as `FEWEST_ROWS` allow."""
UUID_BYTES = 16
FEWEST_ROWS, MOST_ROWS = 256, 65_536
"""Limits on the rows of a batch."""
FEWEST_WITH_PICTURES = 16
"""The same for rows that may hold a picture of many megabytes each."""


@dataclass(frozen=True)
class Embedded:
    """Columns, or paths, whose bytes are pictures, and the folder that the names of files are relative to."""

    names: frozenset[str]
    folder: Path


def tables(file: RawFile, names: Collection[str], pictures: Embedded | None = None) -> Iterator[pl.DataFrame]:
    """Some columns, or paths into nested ones (`paths.value_at`), a batch at a time. Bytes become text, 16 of them a
    UUID if they are none. So do decimals, which may be ids: a float would lose their last digits, and polars has no
    decimals of 256 bits.

    Args:
        pictures: bytes in these columns, and structs of bytes and path as Hugging Face writes them, become the
            addresses of pictures (`parquet_pictures.address`).

    Raises:
        UserError: the file is damaged, or no Parquet file; or a column holds bytes that are neither text nor UUIDs.
    """
    try:
        whole = column_names(file)
        roots = list(dict.fromkeys(name if name in whole else name.split(".")[0] for name in names))
        row = 0
        fewest = FEWEST_ROWS if pictures is None or pictures.names.isdisjoint(names) else FEWEST_WITH_PICTURES
        for batch in _batches(file, roots, fewest):
            columns = {}
            for name in dict.fromkeys(names):
                column = _at_path(batch, name, whole)
                if pictures is not None and name in pictures.names and _holds_bytes(column.type):
                    column = _addresses(column, name, row, (pictures.folder / file.name).as_uri())
                columns[name] = _readable(column, name, file)
            frame = pl.from_arrow(pa.table(columns))
            assert isinstance(frame, pl.DataFrame)
            yield frame
            row += len(batch)
    except (ArrowException, OSError, pl.exceptions.PolarsError) as error:
        raise UserError(
            f"{file.name} is a damaged {_format(file)} file: {error}. Write it again ({file.source})."
        ) from error


def has_path(file: RawFile, path: str) -> bool:
    """Whether a path leads into a nested column."""
    return _type_at(_schema(file), path) is not None


def holds_bytes(file: RawFile, name: str) -> bool:
    """Whether a column, or a path, holds bytes, structs with bytes, or lists of these."""
    kind = _type_at(_schema(file), name)
    return kind is not None and _holds_bytes(kind)


def _type_at(schema: pa.Schema, path: str) -> pa.DataType | None:
    """The type at a path, without the lists that a name in it goes through; None if there is no such path."""
    if path in schema.names:
        return schema.field(path).type
    root, *names = path.split(".")
    kind = schema.field(root).type if root in schema.names else None
    for name in names:
        if name.isdecimal() and kind is not None and _is_list(kind):
            kind = kind.value_type
            continue
        while kind is not None and _is_list(kind):
            kind = kind.value_type
        if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return None
        kind = kind.field(name).type
    return kind


def _at_path(batch: pa.RecordBatch, path: str, whole: Collection[str]) -> pa.Array:
    if path in whole:
        return batch[path]
    root = path.split(".")[0]
    return pa.array([value_at({root: value}, path) for value in batch[root].to_pylist()])


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _holds_bytes(kind: pa.DataType) -> bool:
    while _is_list(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type)
    return _is_bytes(kind)


def _addresses(column: pa.Array, name: str, first_row: int, file_url: str) -> pa.Array:
    """The addresses of the pictures of each row, a list where the column has lists. Bytes that are text, and the path
    of a struct without bytes, are addresses already."""

    def one(value: Any, row: int, place: int | None) -> str | None:
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            return value.get("path") if isinstance(value, dict) else None
        if not isinstance(value, dict):
            with contextlib.suppress(UnicodeDecodeError):
                return str(content.decode())
        return address(file_url, name, row, place)

    rows = enumerate(column.to_pylist(), first_row)
    if not _is_list(column.type):
        return pa.array([one(value, row, None) for row, value in rows], pa.string())
    lists = [[one(value, row, place) for place, value in enumerate(values or [])] for row, values in rows]
    return pa.array(lists, pa.list_(pa.string()))


def _readable(column: pa.Array, name: str, file: RawFile) -> pa.Array:
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    kind = column.type
    if pa.types.is_decimal(kind):
        return column.cast(pa.string())
    if not _is_bytes(kind):
        return column
    values = column.to_pylist()
    try:
        return pa.array([None if value is None else value.decode() for value in values], pa.string())
    except UnicodeDecodeError as error:
        if any(value is not None and len(value) != UUID_BYTES for value in values):
            example = next(value for value in values if value is not None)
            raise UserError(
                f"{file.name}: column {name} holds bytes that are neither text nor UUIDs, e.g. {example!r:.40}. "
                f"Write it as text, or name another column ({file.source})."
            ) from error
    return pa.array([None if value is None else str(UUID(bytes=value)) for value in values], pa.string())


def column_names(file: RawFile) -> list[str]:
    """Columns of the file.

    Raises:
        UserError: it is no Parquet or Arrow file.
    """
    return list(_schema(file).names)


def _format(file: RawFile) -> str:
    return "Arrow" if file.name.lower().endswith(".arrow") else "Parquet"


def _schema(file: RawFile) -> pa.Schema:
    if _format(file) == "Parquet":
        return _parquet_file(file).schema_arrow
    try:
        return arrow_file.schema(file.path)
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        what = _other_format(file) or f"is not an Arrow file, or is cut off: {str(error).rstrip('.')}. Write it again"
        raise UserError(f"{file.name} {what} ({file.source}).") from error


def _batches(file: RawFile, names: list[str], fewest: int) -> Iterator[pa.RecordBatch]:
    """Some whole columns; a batch has `fewest` rows at least, where the file has them in one piece."""
    if _format(file) == "Parquet":
        parquet = _parquet_file(file)
        for batch in parquet.iter_batches(_batch_rows(parquet.metadata, names, fewest), columns=names):
            batch.validate(full=True)  # a text that is no UTF-8 ends in a panic of polars
            yield batch
        return
    for columns in arrow_file.batches(file.path, names):
        rows = max(fewest, min(MOST_ROWS, BATCH_BYTES * len(columns) // max(columns.nbytes, 1)))
        yield from (columns[start : start + rows] for start in range(0, len(columns), rows))


def _batch_rows(metadata: pq.FileMetaData, names: Collection[str], fewest: int) -> int:
    """Rows of a batch such that `BATCH_BYTES` hold them even in the row group with the longest rows."""
    rows = MOST_ROWS
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = (group.column(place) for place in range(group.num_columns))
        size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] in names)
        rows = min(rows, BATCH_BYTES * group.num_rows // max(size, 1))
    return max(fewest, rows)


def _parquet_file(file: RawFile) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file.path, pre_buffer=False, buffer_size=READ_BYTES)
    except (ArrowException, OSError) as error:
        what = _other_format(file) or f"is not a Parquet file, or is cut off: {str(error).rstrip('.')}. Write it again"
        raise UserError(f"{file.name} {what} ({file.source}).") from error


def _other_format(file: RawFile) -> str:
    """What a file is that is called like a Parquet or Arrow file and is none; empty: nothing known."""
    try:
        with file.path.open("rb") as raw:
            beginning = raw.read(256)
    except OSError:
        return ""
    if beginning.startswith(b"PAR1"):
        return ""
    if advice := foreign(beginning):
        return advice
    if beginning.isascii() and beginning.strip():
        kind, end = ("JSON", ".jsonl") if beginning.lstrip()[:1] in (b"{", b"[") else ("CSV", ".csv")
        return f"is text and no {_format(file)} file: if it is {kind}, give it a name that ends in {end}"
    return ""
