"""The tables that a training run leaves in its output folder."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from schemas.tables import EPOCHS, ITEM_WEIGHTS, conform, item_embeddings, user_embeddings
from trainers.data import Dataset
from trainers.scores import Embeddings


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


def item_weights_table(weights: sp.csr_matrix, items: list[str]) -> pa.Table:
    """The `item_weights` table: items in order, the largest weight first, of equal ones the first chosen item."""
    entries = weights.tocoo()
    order = np.lexsort((entries.row, -entries.data, entries.col))
    ids = pa.array(items, pa.string())
    columns = [
        ids.take(pa.array(entries.col[order])),
        ids.take(pa.array(entries.row[order])),
        pa.array(entries.data[order], pa.float32()),
    ]
    return conform(pa.table(columns, names=ITEM_WEIGHTS.names), ITEM_WEIGHTS)


def epoch_table(curve: list[tuple[int, str, float]], model: str, seed: int) -> pa.Table:
    """The training curve as rows of the epochs table."""
    rows = [{"model": model, "seed": seed, "epoch": epoch, "metric": m, "value": v} for epoch, m, v in curve]
    return conform(pa.Table.from_pylist(rows, schema=EPOCHS), EPOCHS)


def write_tables(tables: dict[str, pa.Table], folder: Path) -> dict[str, str]:
    """Write `<name>.parquet` for each table; a reader sees the whole old file or the whole new one.

    Returns: name → path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drafts = {}
    for name, table in tables.items():
        draft = folder / f".{name}.parquet.{os.getpid()}"
        pq.write_table(table, draft, compression="zstd")
        drafts[name] = draft
    paths = {}
    for name, draft in drafts.items():
        path = folder / f"{name}.parquet"
        draft.replace(path)
        paths[name] = str(path)
    return paths
