"""Columns of published tables by row, in little memory: hashes of 8 bytes instead of ids and texts."""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from pipeline.store import Store
from schemas.lineage import TableVersion

EXAMPLES = 3
BATCH_ROWS = 65536


def hashed(store: Store, version: TableVersion, columns: Sequence[str]) -> pl.DataFrame:
    """A hash of each value of each column, null where the value is; `row` numbers the table's rows."""
    parts = [
        pl.DataFrame(batch).select(pl.when(pl.col(c).is_not_null()).then(pl.col(c).hash()).alias(c) for c in columns)
        for batch in store.batches(version, columns, BATCH_ROWS)
    ]
    frame = pl.concat(parts) if parts else pl.DataFrame(schema=dict.fromkeys(columns, pl.UInt64))
    return frame.with_row_index("row")


def at(store: Store, version: TableVersion, column: str, rows: Sequence[int]) -> tuple[str, ...]:
    """The values in these rows, in the table's order; reads no further than the last of them."""
    wanted, start, values = sorted(rows), 0, []
    for batch in store.batches(version, [column], BATCH_ROWS):
        inside = [row - start for row in wanted if start <= row < start + len(batch)]
        values += batch[column].take(pa.array(inside, pa.int64())).to_pylist()
        start += len(batch)
        if not wanted or wanted[-1] < start:
            break
    return tuple(map(str, values))


def examples(store: Store, version: TableVersion, rows: pl.Series) -> tuple[str, ...]:
    """The item ids of the first few of these rows."""
    return at(store, version, "item_id", rows.sort().head(EXAMPLES).to_list())
