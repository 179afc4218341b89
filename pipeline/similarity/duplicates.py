"""Items that seem to be one product listed twice, as far as the features can tell."""

from collections.abc import Mapping

import polars
import pyarrow as pa

from pipeline.store import Store
from schemas.lineage import TableVersion
from schemas.similarity import DUPLICATES, SimilarityConfig


def duplicates(*, store: Store, graph: TableVersion, features: Mapping[str, TableVersion]) -> pa.Table:
    """Items with the same content, and items whose cosine by a feature reaches the graph's `near_duplicate`.

    Equal content is told by `content_hash`, so a group of any size is found; each member is paired with the first by
    item_id. Near-duplicates are found among the graph's edges.

    Returns: `DUPLICATES` rows, by feature, then item_id.
    """
    config = SimilarityConfig.model_validate_json(graph.lineage["cm3.config"])
    edges = polars.DataFrame(store.read(graph))
    parts = []
    for name in sorted(features):
        same = _same_content(store, features[name])
        near = edges.filter(
            (polars.col(f"similarity_{name}") >= config.near_duplicate)
            & (polars.col("item_id") < polars.col("neighbor_id"))
        ).select(
            "item_id",
            polars.col("neighbor_id").alias("duplicate_id"),
            polars.col(f"similarity_{name}").alias("similarity"),
        )
        first = {row["duplicate_id"]: row["item_id"] for row in same.iter_rows(named=True)}
        apart = [first.get(a, a) != first.get(b, b) for a, b in zip(near["item_id"], near["duplicate_id"], strict=True)]
        near = near.filter(polars.Series(apart, dtype=polars.Boolean))
        for kind, pairs in (("same content", same), ("near", near)):
            parts.append(pairs.with_columns(feature=polars.lit(name), kind=polars.lit(kind)).select(DUPLICATES.names))
    table = polars.concat(parts).sort("feature", "item_id", "duplicate_id")
    return table.to_arrow(compat_level=polars.CompatLevel.oldest()).cast(DUPLICATES)


def _same_content(store: Store, version: TableVersion) -> polars.DataFrame:
    """Each item paired with the first, by item_id, of the items with the same content."""
    frame = polars.DataFrame(store.read(version, ["item_id", "content_hash"])).drop_nulls()
    frame = frame.with_columns(first=polars.col("item_id").min().over("content_hash"))
    frame = frame.filter(polars.col("item_id") != polars.col("first"))
    one = polars.lit(1.0, polars.Float32)
    return frame.select(
        polars.col("first").alias("item_id"), polars.col("item_id").alias("duplicate_id"), one.alias("similarity")
    )
