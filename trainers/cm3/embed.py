"""Apply a trained model to the tables of today: rows for items and users that came after its training."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from schemas.errors import UserError
from schemas.model import BorrowedWeights, EmbeddingTables
from trainers.cm3.deliver import lists
from trainers.cm3.trained import TrainedModel, load_model, rows_of
from trainers.data import Dataset, load, read_table
from trainers.item_weights.candidates import content_of
from trainers.item_weights.cold import borrow, nearest_warm
from trainers.output import embedding_tables, item_weights_tables, write_tables

Rows = NDArray[np.int64]


def embed(
    *, tables: EmbeddingTables, output: Path, never_shown: Collection[str] = (), device: str = "auto"
) -> dict[str, str]:
    """Publishable tables of today's users and items. No parameter changes, and no epoch runs.

    Rows that the training published stay as they are, bit by bit, also of items and users that have changed or chosen
    since. Items and users of the training that are gone have no row. New ones get theirs by fold-in:

    - An item's vector comes from its content, through the trained projections, from its neighbours in the item graph,
      and from its interactions, if it has any: it is propagated over today's graphs with trained parameters.
    - A user's vector comes from what they chose: their own blocks are zero, so that propagation gives them the sum of
      what lies around them; the blocks' shares are the average user's.
    - In the graph filter's coordinates both stand where their interactions put them (`graph_filter.fold_in`).
    - An item's column of `item_weights` is borrowed from the items most alike, as for items that nobody chose.

    `recommendations` are made anew for everyone, from today's interactions. An item with neither content nor
    interactions has no row anywhere.

    Args:
        output: local folder that gets items, users, item_weights and recommendations `.parquet`.
        never_shown: ids of items that stand in no recommendation.
        device: see `TrainingConfig.device`.
    Returns: table name → path.
    Raises: UserError: the model cannot be read, its features are not today's, or a table is unusable.
    """
    model = load_model(tables.trained.model, device)
    config = model.description.config
    split = load(tables.today)
    everything = split.all_for_training()
    today = everything if config.refit else split
    vectors = model.vectors(today)
    old_items = _kept("item_id", tables.trained.items, today.items, vectors.items)
    _kept("user_id", tables.trained.users, today.users, vectors.users)
    weights = _weights(tables.trained.item_weights, today, model, np.setdiff1d(np.arange(len(today.items)), old_items))
    outputs = embedding_tables(vectors, today)
    outputs["item_weights"] = item_weights_tables(weights, today.items)
    outputs["recommendations"] = lists(vectors, weights, today, everything, config, today.rows_of(never_shown))
    return write_tables(outputs, output)


def _kept(column: str, uri: str, ids: list[str], vectors: torch.Tensor) -> Rows:
    """Put the published vectors over those just computed; returns the rows of `ids` that had one."""
    table = read_table(uri, (column, "embedding"))
    width = table.schema.field("embedding").type.list_size
    if width != vectors.shape[1]:
        raise UserError(
            f"table at {uri}: expected the vectors of this model's training, {vectors.shape[1]} numbers wide, found "
            f"{width}. Apply the model that was published with them."
        )
    row = rows_of(table[column].to_pylist(), ids)
    numbers = pa.concat_arrays([chunk.flatten() for chunk in table["embedding"].chunks]).to_numpy(zero_copy_only=False)
    kept = torch.from_numpy(row[row >= 0]).to(vectors.device)
    vectors[kept] = torch.from_numpy(numbers.reshape(-1, width)[row >= 0]).to(vectors)
    return row[row >= 0]


def _weights(uri: str, today: Dataset, model: TrainedModel, new: Rows) -> sp.csr_matrix:
    """The published weights among today's items, and borrowed columns for the new ones, (items, items)."""
    table = read_table(uri, ("item_id", "chosen_id", "weight"))
    column, row = (rows_of(table[name].to_pylist(), today.items) for name in ("item_id", "chosen_id"))
    present = (column >= 0) & (row >= 0)
    weight = table["weight"].to_numpy()[present]
    count = len(today.items)
    weights = sp.csr_matrix((weight, (row[present], column[present])), shape=(count, count))
    rule = model.description.borrowed
    return weights if rule is None else (weights + _borrowed(weights, today, model.items, rule, new)).tocsr()


def _borrowed(
    weights: sp.csr_matrix, today: Dataset, lenders: list[str], rule: BorrowedWeights, new: Rows
) -> sp.csr_matrix:
    warm = rows_of(lenders, today.items)
    warm = warm[warm >= 0]
    content = content_of(today.features, rule.shares, warm)
    return borrow(weights, nearest_warm(new, warm, content), rule.themselves)
