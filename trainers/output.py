"""The tables that a training run leaves in its output folder."""

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from schemas.tables import EPOCHS, ITEM_WEIGHTS, conform, item_embeddings, user_embeddings
from trainers.data import Dataset
from trainers.scores import Embeddings

ROWS = 1 << 20
"""Rows of `item_weights` that are made and written at once."""


def embedding_tables(embeddings: Embeddings, dataset: Dataset) -> dict[str, pa.Table]:
    """The `items` and `users` tables, ordered by id."""
    users, items = (part.float().cpu().numpy() for part in embeddings)
    dim = items.shape[1]
    vectors = {"item_id": (dataset.items, items), "user_id": (dataset.users, users)}
    tables = {}
    for column, (ids, matrix) in vectors.items():
        schema = item_embeddings(dim) if column == "item_id" else user_embeddings(dim)
        flat = pa.array(np.ascontiguousarray(matrix, np.float32).ravel())
        embedding = pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type)
        table = pa.table({column: pa.array(ids, pa.string()), "embedding": embedding})
        tables[column.removesuffix("_id") + "s"] = conform(table, schema)
    return tables


def item_weights_tables(weights: sp.csr_matrix, items: list[str]) -> Iterator[pa.Table]:
    """The `item_weights` table in parts of about `ROWS` rows, one or more.

    Items in order, the largest weight first, of equal ones the first chosen item.
    """
    columns, ids = weights.tocsc(), pa.array(items, pa.string())
    columns.sort_indices()
    start, last = 0, len(items)
    while start < last:
        end = int(np.searchsorted(columns.indptr, columns.indptr[start] + ROWS, side="right")) - 1
        end = min(max(end, start + 1), last)
        part = slice(columns.indptr[start], columns.indptr[end])
        item = np.repeat(np.arange(start, end), np.diff(columns.indptr[start : end + 1]))
        chosen, weight = columns.indices[part], columns.data[part]
        order = np.lexsort((chosen, -weight, item))
        rows = [ids.take(pa.array(item[order])), ids.take(pa.array(chosen[order])), pa.array(weight[order])]
        yield conform(pa.table(rows, names=ITEM_WEIGHTS.names), ITEM_WEIGHTS)
        start = end


def epoch_table(curve: list[tuple[int, str, float]], model: str, seed: int) -> pa.Table:
    """The training curve as rows of the epochs table."""
    rows = [{"model": model, "seed": seed, "epoch": epoch, "metric": m, "value": v} for epoch, m, v in curve]
    return conform(pa.Table.from_pylist(rows, schema=EPOCHS), EPOCHS)


def write_tables(tables: Mapping[str, pa.Table | Iterator[pa.Table]], folder: Path) -> dict[str, str]:
    """Write `<name>.parquet` for each table; a reader sees the whole old file or the whole new one.

    Args:
        tables: each whole, or in its parts, of which it has one or more.

    Returns: name → path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drafts = {}
    for name, table in tables.items():
        draft = folder / f".{name}.parquet.{os.getpid()}"
        parts = iter([table]) if isinstance(table, pa.Table) else table
        first = next(parts)
        with pq.ParquetWriter(draft, first.schema, compression="zstd") as writer:
            for part in itertools.chain([first], parts):
                writer.write_table(part)
        drafts[name] = draft
    paths = {}
    for name, draft in drafts.items():
        path = folder / f"{name}.parquet"
        draft.replace(path)
        paths[name] = str(path)
    return paths
