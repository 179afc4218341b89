"""Updating a published graph: which items are searched again, and which neighbours the others keep.

An item is searched again among all others if its own vectors changed, or if one of its neighbours changed or was
removed. Every other item keeps its neighbours; only the items searched again can enter its lists, and those comparisons
are made anyway. So an update compares `searched x all` items, not `all x all`, and gives the same bits as a rebuild.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.similarity.edges import Neighbours, top_k
from pipeline.similarity.layout import Layout
from pipeline.similarity.search import Search
from pipeline.similarity.vectors import READ_ROWS, FeatureTable, Ints, item_ids, read
from pipeline.store import Store
from schemas.errors import UserError
from schemas.lineage import Lineage, TableVersion
from schemas.similarity import Edges, SimilarityConfig

logger = logging.getLogger(__name__)
WORTHWHILE = 0.5
"""If a larger share of the items must be searched again, a rebuild is as cheap."""


@dataclass(frozen=True)
class Base:
    """A graph to start from.

    Attributes:
        edges: the published rows.
        searched: ids of the items to search again.
    """

    version: TableVersion
    edges: polars.DataFrame
    searched: pa.Array

    def groups(self, ids: pa.Array) -> Ints:
        """0 for the items to search, 1 for the rest."""
        return 1 - np.asarray(pc.is_in(ids, value_set=self.searched)).astype(np.int64)


def find_base(
    store: Store,
    lineage: Lineage,
    vectors: Mapping[str, FeatureTable],
    weights: Mapping[str, float],
    config: SimilarityConfig,
) -> Base | None:
    """The newest exact graph of the same data set, configuration, feature names and weights, if most of it still holds.

    A mutual graph lacks edges that an update would need, so it is always rebuilt.
    """
    if config.edges is Edges.MUTUAL:
        return None
    for version in reversed(store.versions(lineage.dataset, lineage.table)):
        if _comparable(version, lineage, weights):
            base = _compare(store, version, vectors)
            share = len(base.searched) / max(len(item_ids(vectors)), 1) if base else 1.0
            if base is not None and share <= WORTHWHILE:
                logger.info("similarity: updates %s, searches %.1f %% of the items", version.version, 100 * share)
                return base
    return None


def seed(search: Search, base: Base) -> None:
    """Give the items that are not searched again the neighbours they had, and the cuts that follow."""
    layout, front = search.layout, search.layout.front
    rows, columns = _positions(base.edges["item_id"], layout), _positions(base.edges["neighbor_id"], layout)
    kept = (rows >= front) & (rows != columns)
    for index, (channel, twin) in enumerate(zip(search.channels, search.twins, strict=True)):
        values = _similarities(base.edges, layout, index)
        own = kept & ~np.isnan(values)
        own[own] &= twin[rows[own]] == rows[own]
        edges = top_k(Neighbours(rows[own], columns[own], values[own]), layout.order, search.k)
        channel.begin(_leaders(edges, twin, front), edges)


def _positions(ids: polars.Series, layout: Layout) -> Ints:
    """Each id's position, -1 where the item was removed."""
    places = pc.index_in(pa.array(ids.to_arrow()).cast(pa.string()), value_set=layout.ids)
    positions: Ints = places.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return positions


def _similarities(edges: polars.DataFrame, layout: Layout, channel: int) -> np.ndarray:
    """A channel's similarity of each published edge, NaN where it has none."""
    names = [f"similarity_{feature.name}" for feature in layout.features]
    if channel < len(names):
        return edges[names[channel]].fill_null(float("nan")).to_numpy()
    weighty = [name for name, feature in zip(names, layout.features, strict=True) if feature.weight > 0]
    fused = edges.select(polars.any_horizontal(polars.col(*weighty).is_not_null())).to_series().to_numpy()
    return np.where(fused, edges["similarity"].to_numpy(), np.float32("nan"))


def _leaders(edges: Neighbours, twin: np.ndarray, front: int) -> Neighbours:
    """The edges to the first of twins, without those to items that are searched again."""
    return edges.select((edges.columns >= front) & (twin[edges.columns] == edges.columns))


def _comparable(version: TableVersion, lineage: Lineage, weights: Mapping[str, float]) -> bool:
    ours = lineage.metadata("")
    same = all(version.lineage.get(key) == ours[key] for key in ("cm3.stage_version", "cm3.config"))
    names = set(json.loads(version.lineage["cm3.inputs"])) == set(lineage.inputs)
    measured = json.loads(version.lineage.get("cm3.measured", "{}"))
    return same and names and measured.get("exact", False) and measured.get("weights") == dict(weights)


def _compare(store: Store, version: TableVersion, vectors: Mapping[str, FeatureTable]) -> Base | None:
    """This version with what an update of it would search again; None if its features were deleted."""
    inputs = json.loads(version.lineage["cm3.inputs"])
    changed = pa.array([], pa.string())
    for name, now in vectors.items():
        try:
            before = read(store, store.get(version.dataset, f"features/{name}", inputs[f"features/{name}"]))
        except (UserError, OSError):
            return None
        changed = pa.concat_arrays([changed, _differing(before, now)])
    edges = polars.DataFrame(store.read(version))
    ids = polars.Series(changed)
    affected = edges.filter(polars.col("neighbor_id").is_in(ids.implode()))["item_id"]
    searched = pa.array(polars.concat([ids.cast(polars.String), affected]).unique().to_list(), pa.string())
    return Base(version, edges, searched.filter(pc.is_in(searched, value_set=item_ids(vectors))))


def _differing(before: FeatureTable, now: FeatureTable) -> pa.Array:
    """Ids that were added or removed, or whose vector changed, null included."""
    rows = pc.index_in(now.ids, value_set=before.ids).fill_null(-1).to_numpy(zero_copy_only=False)
    removed = before.ids.filter(pc.invert(pc.is_in(before.ids, value_set=now.ids)))
    if before.matrix.shape[1] != now.matrix.shape[1]:
        return pa.concat_arrays([now.ids, removed])
    same = np.zeros(len(rows), bool)
    for start in range(0, len(rows), READ_ROWS):
        part = rows[start : start + READ_ROWS]
        old, new = before.matrix[np.maximum(part, 0)], now.matrix[start : start + READ_ROWS]
        same[start : start + READ_ROWS] = (part >= 0) & (old.view(np.int32) == new.view(np.int32)).all(axis=1)
    return pa.concat_arrays([now.ids.filter(pa.array(~same)), removed])
