"""Parquet files, a batch of bounded size at a time."""

from collections.abc import Collection, Iterator
from uuid import UUID

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ArrowException

from pipeline.ingest.raw import RawFile
from pipeline.store import READ_BYTES
from schemas.errors import UserError

BATCH_BYTES = 64 << 20
"""Uncompressed bytes of a batch at most, as far as `FEWEST_ROWS` allow."""
UUID_BYTES = 16
FEWEST_ROWS, MOST_ROWS = 256, 65_536
"""Limits on the rows of a batch."""


def tables(file: RawFile, names: Collection[str]) -> Iterator[pl.DataFrame]:
    """Some columns, a batch at a time. Bytes become text, 16 of them a UUID if they are none. So do decimals, which may
    be ids: a float would lose their last digits, and polars has no decimals of 256 bits.

    Raises:
        UserError: the file is damaged, or no Parquet file; or a column holds bytes that are neither text nor UUIDs.
    """
    try:
        parquet = _parquet_file(file)
        for batch in parquet.iter_batches(_batch_rows(parquet.metadata, names), columns=list(names)):
            columns = [
                _readable(each, name, file) for each, name in zip(batch.columns, batch.schema.names, strict=True)
            ]
            frame = pl.from_arrow(pa.RecordBatch.from_arrays(columns, names=batch.schema.names))
            assert isinstance(frame, pl.DataFrame)
            yield frame
    except (ArrowException, OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{file.name} is a damaged Parquet file: {error}. Write it again ({file.source}).") from error


def _readable(column: pa.Array, name: str, file: RawFile) -> pa.Array:
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    kind = column.type
    if pa.types.is_decimal(kind):
        return column.cast(pa.string())
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)):
        return column
    values = column.to_pylist()
    try:
        return pa.array([None if value is None else value.decode() for value in values], pa.string())
    except UnicodeDecodeError as error:
        if any(value is not None and len(value) != UUID_BYTES for value in values):
            raise UserError(
                f"{file.name}: column {name} holds bytes that are neither text nor UUIDs, e.g. {values[0]!r:.40}. "
                f"Write it as text, or name another column ({file.source})."
            ) from error
    return pa.array([None if value is None else str(UUID(bytes=value)) for value in values], pa.string())


def column_names(file: RawFile) -> list[str]:
    """Columns of the file.

    Raises:
        UserError: it is no Parquet file.
    """
    return list(_parquet_file(file).schema_arrow.names)


def _batch_rows(metadata: pq.FileMetaData, names: Collection[str]) -> int:
    """Rows of a batch such that `BATCH_BYTES` hold them even in the row group with the longest rows."""
    rows = MOST_ROWS
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = (group.column(place) for place in range(group.num_columns))
        size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] in names)
        rows = min(rows, BATCH_BYTES * group.num_rows // max(size, 1))
    return max(FEWEST_ROWS, rows)


def _parquet_file(file: RawFile) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file.path, pre_buffer=False, buffer_size=READ_BYTES)
    except (ArrowException, OSError) as error:
        raise UserError(f"{file.name} is not a Parquet file: {error}. Check {file.source}.") from error
