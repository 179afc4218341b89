"""Feature tables, read from the store."""

import logging
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import polars
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.store import Store
from schemas.errors import UserError
from schemas.lineage import TableVersion

logger = logging.getLogger(__name__)
READ_ROWS = 8192

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class FeatureTable(NamedTuple):
    """The vectors of one feature.

    Attributes:
        ids: (rows,) item ids, none twice.
        matrix: (rows, dim) float32, NaN where the vector is null.
    """

    ids: pa.Array
    matrix: Floats


def read(store: Store, version: TableVersion) -> FeatureTable:
    """One feature table.

    Raises:
        UserError: an item occurs twice.
    """
    ids: list[pa.Array] = []
    matrix: Floats = np.empty((0, 1), np.float32)
    start = unusable_rows = 0
    for batch in store.batches(version, ["item_id", "embedding"], rows=READ_ROWS):
        vectors = batch["embedding"].combine_chunks()
        width = vectors.type.list_size
        numbers = vectors.values[vectors.offset * width : (vectors.offset + len(vectors)) * width]
        block = numbers.to_numpy(zero_copy_only=False).reshape(-1, width)
        if start == 0:
            matrix = np.empty((version.rows, width), np.float32)
        part = matrix[start : start + len(block)]
        part[:] = block
        null = vectors.is_null().to_numpy(zero_copy_only=False)
        part[null] = np.nan
        start += len(block)
        unusable_rows += int((~null & ~usable(part)).sum())
        ids.append(batch["item_id"].combine_chunks())
    if unusable_rows:
        logger.warning("%s: %s vectors are zero or not finite and count as absent", version.table, f"{unusable_rows:,}")
    pa.default_memory_pool().release_unused()  # otherwise it keeps as much again as the matrix takes
    joined = pa.concat_arrays(ids) if ids else pa.array([], pa.string())
    if len(joined) != pc.count_distinct(joined).as_py():
        raise UserError(
            f"{version.dataset}/{version.table}@{version.version} holds an item more than once; expected one row "
            "per item. Run the extraction again."
        )
    return FeatureTable(joined, matrix)


def usable(matrix: Floats) -> NDArray[np.bool_]:
    """(rows,) whether a row has a direction: all its numbers are finite and not all are zero."""
    has_direction: NDArray[np.bool_] = np.empty(len(matrix), bool)
    for start in range(0, len(matrix), READ_ROWS):
        part = matrix[start : start + READ_ROWS]
        has_direction[start : start + READ_ROWS] = np.isfinite(part).all(axis=1) & (part != 0).any(axis=1)
    return has_direction


def item_ids(vectors: Mapping[str, FeatureTable]) -> pa.Array:
    """Ids of all items of feature tables, sorted."""
    ids = pc.unique(pa.chunked_array([table.ids for table in vectors.values()], type=pa.string()))
    return ids.take(pc.sort_indices(ids))


def presence(store: Store, features: Mapping[str, TableVersion]) -> polars.DataFrame:
    """item_id of all items, sorted, and for each feature whether the item has a usable vector."""
    frames = []
    for name in sorted(features):
        ids, matrix = read(store, features[name])
        frames.append(polars.DataFrame({"item_id": polars.Series(ids, dtype=polars.String), name: usable(matrix)}))
    joined = frames[0]
    for frame in frames[1:]:
        joined = joined.join(frame, on="item_id", how="full", coalesce=True)
    return joined.with_columns(polars.col(*features).fill_null(False)).sort("item_id")
