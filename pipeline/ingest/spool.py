"""Item rows on disk between two passes: cleaned before the filters, published after them."""

from collections.abc import Container, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store import READ_BYTES
from pipeline.table_writer import PARQUET
from schemas.tables import ITEMS

ROWS = 4096
"""Rows in memory at a time."""


def write(path: Path, rows: Iterator[dict[str, Any]]) -> set[str]:
    """Write rows with the columns of `ITEMS` to a Parquet file; returns their ids."""
    ids: set[str] = set()
    with pq.ParquetWriter(path, ITEMS, **PARQUET) as file:
        while batch := list(islice(rows, ROWS)):
            ids.update(row["item_id"] for row in batch)
            # By column: `Table.from_pylist` takes 20 times as long.
            columns = [pa.array([row[field.name] for row in batch], field.type) for field in ITEMS]
            file.write_table(pa.table(columns, schema=ITEMS))
    return ids


def read(path: Path, ids: Container[str]) -> Iterator[pa.Table]:
    """The rows with these ids, in the order in which they were written."""
    file = pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES)
    for batch in file.iter_batches(ROWS):
        table = pa.Table.from_batches([batch])
        yield table.filter(pa.array([item_id in ids for item_id in table["item_id"].to_pylist()]))
