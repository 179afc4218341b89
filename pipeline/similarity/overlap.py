"""How much of the similarity graph stays from one version to the next."""

import polars as pl

from pipeline.store import Store
from schemas.lineage import TableVersion

MOST_EDGES = 200_000
"""About as many edges of a larger graph are compared: those of items chosen by a hash of their ids, in both alike."""
BATCH_ROWS = 65536


def overlap(store: Store, a: TableVersion, b: TableVersion) -> float | None:
    """Edges in both graphs divided by edges in either, of the items that both have; None where there are none.

    Memory does not grow with the catalogue.
    """
    one_in = -(-max(a.rows, b.rows) // MOST_EDGES)
    ours, theirs = (_edges(store, version, one_in) for version in (a, b))
    ours, theirs = ours.join(theirs, on="item_id", how="semi"), theirs.join(ours, on="item_id", how="semi")
    shared = len(ours.join(theirs, on=ours.columns, how="semi"))
    either = len(ours) + len(theirs) - shared
    return shared / either if either else None


def _edges(store: Store, version: TableVersion, one_in: int) -> pl.DataFrame:
    """Item and neighbour of every edge of one in `one_in` items."""
    parts = [
        pl.DataFrame(batch).filter(pl.col("item_id").hash() % one_in == 0)
        for batch in store.batches(version, ["item_id", "neighbor_id"], BATCH_ROWS)
    ]
    return pl.concat(parts) if parts else pl.DataFrame(schema={"item_id": pl.String, "neighbor_id": pl.String})
