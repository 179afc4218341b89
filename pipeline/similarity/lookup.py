"""The look-up of one item's neighbours."""

import json
from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store import Store
from schemas.errors import UserError
from schemas.lineage import TableVersion
from schemas.similarity import SimilarityConfig

DEFAULT_K = 10


def similar(store: Store, dataset: str, item_id: str, k: int | None = None) -> pa.Table:
    """The `k` nearest of an item by fused similarity, with each feature's cosine, from the latest similarity table.

    Only the row groups that may hold the item are read.

    Args:
        k: at most the graph's own, which is the default up to 10: the table's further rows are the neighbours by one
            feature each, so that others may lie between them.

    Raises:
        UserError: the data set has no similarity table, or no such item, or the graph holds fewer than `k` of each.
    """
    version = store.latest(dataset, "similarity")
    held = json.loads(version.lineage.get("cm3.config", "{}")).get("k", SimilarityConfig().k)
    if k is not None and k > held:
        raise UserError(
            f"k: the graph of {dataset} holds the {held} nearest of each item, {k} were asked for. Ask for at most "
            f"{held}, or run again with --similarity '{{\"k\": {k}}}'."
        )
    k = min(held, DEFAULT_K) if k is None else k
    neighbors = store.read(version, filters=[("item_id", "=", item_id)])
    if not len(neighbors):
        raise _unknown(store, dataset, item_id)
    return neighbors.filter(pc.field("rank") <= k).sort_by("rank")


def titles(store: Store, items: TableVersion, ids: Collection[str]) -> dict[str, str | None]:
    """item_id → title (null if it has none), of those ids that the `items` table has."""
    rows = store.read(items, ["item_id", "title"], filters=[("item_id", "in", list(ids))])
    return dict(zip(rows["item_id"].to_pylist(), rows["title"].to_pylist(), strict=True))


def _unknown(store: Store, dataset: str, item_id: str) -> UserError:
    """Tells whether the item is unknown or merely without neighbours."""
    items = store.latest(dataset, "items") if "items" in store.tables(dataset) else None
    ids = store.read(items, ["item_id"])["item_id"] if items else pa.chunked_array([], pa.string())
    if pc.is_in(pa.scalar(item_id), value_set=ids.combine_chunks()).as_py():
        return UserError(
            f"Item {item_id!r} of {dataset} has no neighbours: it has no feature, or is the only item that has one. "
            f"Look at its rows in the features tables."
        )
    hints = ids.filter(pc.match_substring(ids, item_id, ignore_case=True)).slice(0, 5).to_pylist()
    hint = (
        f"Did you mean {', '.join(hints)}?" if hints else "`cm3 show` lists the tables; item_id is the source's own id."
    )
    return UserError(f"{dataset} has no item {item_id!r} in its similarity table. {hint}")
