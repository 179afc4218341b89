"""The look-up of one item's neighbours."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.store import Store
from schemas.errors import UserError


def similar(store: Store, dataset: str, item_id: str, k: int = 10) -> pa.Table:
    """The `k` nearest of an item by fused similarity, with each feature's cosine, from the latest similarity table.

    Only the row groups that may hold the item are read.

    Raises:
        UserError: the data set has no similarity table, or no such item.
    """
    version = store.latest(dataset, "similarity")
    folder = store.inside(version.path)
    parts = [
        pq.read_table(f"{folder}/{name}", filters=[("item_id", "=", item_id)], filesystem=store.fs)
        for name in sorted(version.files)
    ]
    neighbors = pa.concat_tables(parts).replace_schema_metadata(None)
    if not len(neighbors):
        raise _unknown(store, dataset, item_id)
    return neighbors.filter(pc.field("rank") <= k).sort_by("rank")


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
