"""Item rows on disk between two passes: cleaned first, published once their interactions are counted."""

from collections import Counter
from collections.abc import Iterator, Mapping
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
COUNT = "interactions"
"""The column of `ITEMS` that is not known in the first pass."""
CLEANED = ITEMS.remove(ITEMS.get_field_index(COUNT))
"""The columns of the first pass."""


def write(path: Path, rows: Iterator[dict[str, Any]]) -> tuple[set[str], Counter[str]]:
    """Write rows with the columns of `CLEANED` to a Parquet file; returns their ids, and for each column the number of
    rows that have a value."""
    ids: set[str] = set()
    filled: Counter[str] = Counter()
    with pq.ParquetWriter(path, CLEANED, **PARQUET) as file:
        while batch := list(islice(rows, ROWS)):
            ids.update(row["item_id"] for row in batch)
            # By column: `Table.from_pylist` takes 20 times as long.
            columns = []
            for field in CLEANED:
                values = [row[field.name] for row in batch]
                filled[field.name] += len(values) - values.count(None) - values.count([])
                columns.append(pa.array(values, field.type))
            file.write_table(pa.table(columns, schema=CLEANED))
    return ids, filled


def read(path: Path, counts: Mapping[str, int] | None) -> Iterator[pa.Table]:
    """Every row in the order in which it was written, with its interactions.

    Args:
        counts: item id → its interactions, 0 where it is not in there; None: they were not read, so that the column is
            null.
    """
    file = pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES)
    for batch in file.iter_batches(ROWS):
        ids = batch["item_id"].to_pylist()
        column = [None if counts is None else counts.get(item_id, 0) for item_id in ids]
        rows = pa.Table.from_batches([batch]).append_column(COUNT, pa.array(column, pa.int32()))
        yield rows.select(ITEMS.names).cast(ITEMS)
