"""Parquet files, a batch of bounded size at a time."""

from collections.abc import Collection, Iterator

import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ArrowException

from pipeline.ingest.raw import RawFile
from pipeline.store import READ_BYTES
from schemas.errors import UserError

BATCH_BYTES = 64 << 20
"""Uncompressed bytes of a batch at most, as far as `FEWEST_ROWS` allow."""
FEWEST_ROWS, MOST_ROWS = 256, 65_536
"""Limits on the rows of a batch."""


def tables(file: RawFile, names: Collection[str]) -> Iterator[pl.DataFrame]:
    """Some columns, a batch at a time. Bytes become text; so do decimals, which may be ids: a float would lose their
    last digits, and polars has no decimals of 256 bits.

    Raises:
        UserError: the file is damaged, or no Parquet file.
    """
    try:
        parquet = _parquet_file(file)
        for batch in parquet.iter_batches(_batch_rows(parquet.metadata, names), columns=list(names)):
            columns = [each.cast(pa.string()) if pa.types.is_decimal(each.type) else each for each in batch.columns]
            frame = pl.from_arrow(pa.RecordBatch.from_arrays(columns, names=batch.schema.names))
            assert isinstance(frame, pl.DataFrame)
            yield frame.with_columns(cs.binary().cast(pl.String))
    except (ArrowException, OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{file.name} is a damaged Parquet file: {error}. Write it again ({file.source}).") from error


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
