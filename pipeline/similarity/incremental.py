"""Updating a published graph: which items are searched again, and which neighbours the others keep.

An item is searched again among all others if its own vectors changed, or if one of its neighbours changed or was
removed. Every other item keeps its neighbours; only the items searched again can enter its lists, and those comparisons
are made anyway. So an update compares `searched x all` items, not `all x all`, and gives the same bits as a rebuild.

Where clusters prune the search, "all" are the items of the clusters nearest to an item. They stay the same while the
centres do, so an update gives the bits of a rebuild with the same centres.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.similarity.edges import Neighbours, top_k
from pipeline.similarity.layout import Layout, assemble
from pipeline.similarity.partition import Partition, kept
from pipeline.similarity.search import Search
from pipeline.similarity.vectors import READ_ROWS, FeatureTable, Ints, item_ids, read
from pipeline.store import Store
from schemas.errors import UserError
from schemas.lineage import Lineage, TableVersion
from schemas.similarity import Edges, SimilarityConfig

logger = logging.getLogger(__name__)
WORTHWHILE = 0.5
"""If a larger share of the items must be searched again, a rebuild is as cheap."""
RECALL_LOST = 0.01
"""If an approximate graph's recall is farther below its target, the clusters no longer suit the items."""


@dataclass(frozen=True)
class Base:
    """A graph to start from.

    Attributes:
        edges: the published rows.
        changed: ids of the items whose vectors changed, new ones included.
        searched: ids of the items to search again: these, and those that had one of them as a neighbour.
        partition: what pruned the search; None if it was exact.
    """

    version: TableVersion
    edges: polars.DataFrame
    changed: pa.Array
    searched: pa.Array
    partition: Partition | None

    def groups(self, ids: pa.Array) -> Ints:
        """0 for the items to search, 1 for the rest."""
        return 1 - self.is_searched(ids).astype(np.int64)

    def is_searched(self, ids: pa.Array) -> NDArray[np.bool_]:
        """Of each id, whether it is one of `searched`."""
        return np.asarray(pc.is_in(ids, value_set=self.searched))

    def has_changed(self, ids: pa.Array) -> NDArray[np.bool_]:
        """Of each id, whether it is one of `changed`."""
        return np.asarray(pc.is_in(ids, value_set=self.changed))


def find_base(
    store: Store,
    lineage: Lineage,
    vectors: Mapping[str, FeatureTable],
    weights: Mapping[str, float],
    config: SimilarityConfig,
) -> Base | None:
    """The newest graph of the same data set, configuration, feature names and weights, if most of it still holds.

    A mutual graph lacks edges that an update would need, so it is always rebuilt. So is an approximate one whose
    clusters no longer suit the catalogue, or that has the reverse of each edge: it may be nearer than what was found.
    Then no older one is taken either: what the newest says of the clusters holds for those before it.
    """
    if config.edges is Edges.MUTUAL:
        return None
    count = len(item_ids(vectors))
    for version in reversed(store.versions(lineage.dataset, lineage.table)):
        if _comparable(version, lineage, weights):
            measured = json.loads(version.lineage["cm3.measured"])
            partition = None if measured["exact"] else _partition(store, measured, count, config)
            if partition is None and not measured["exact"]:
                return None
            base = _compare(store, version, vectors, weights, partition)
            share = len(base.searched) / max(count, 1) if base else 1.0
            if base is not None and share <= WORTHWHILE:
                logger.info("similarity: updates %s, searches %.1f %% of the items", version.version, 100 * share)
                return base
    return None


def seed(search: Search, base: Base) -> None:
    """Give the items that are not searched again the neighbours they had, and the cuts that follow.

    Neighbours that they are compared with again are left out: they are found again.
    """
    layout = search.layout
    rows, columns = _positions(base.edges["item_id"], layout), _positions(base.edges["neighbor_id"], layout)
    kept = (rows >= 0) & ~base.is_searched(layout.ids)[rows] & (rows != columns)
    compared = base.has_changed(layout.ids) if base.partition else base.is_searched(layout.ids)
    for index, (channel, twin) in enumerate(zip(search.channels, search.twins, strict=True)):
        values = _similarities(base.edges, layout, index)
        own = kept & ~np.isnan(values)
        own[own] &= twin[rows[own]] == rows[own]
        edges = top_k(Neighbours(rows[own], columns[own], values[own]), layout.order, search.k)
        leads = twin[edges.columns] == edges.columns
        channel.begin(edges.select(leads & ~compared[edges.columns]), edges)


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


def _comparable(version: TableVersion, lineage: Lineage, weights: Mapping[str, float]) -> bool:
    ours = lineage.metadata("")
    same = all(version.lineage.get(key) == ours[key] for key in ("cm3.stage_version", "cm3.config"))
    names = set(json.loads(version.lineage["cm3.inputs"])) == set(lineage.inputs)
    return same and names and json.loads(version.lineage.get("cm3.measured", "{}")).get("weights") == dict(weights)


def _partition(store: Store, measured: Mapping[str, Any], items: int, config: SimilarityConfig) -> Partition | None:
    """What pruned the search of an approximate graph, if it would still do for so many items."""
    partition = kept(store, measured.get("partition", ""))
    still_finds = min(measured["recall"].values()) >= config.recall_target - RECALL_LOST
    suits = partition is not None and still_finds and partition.suits(items) and items > config.approximate_above
    return partition if suits and config.edges is Edges.DIRECTED else None


def _compare(
    store: Store,
    version: TableVersion,
    vectors: Mapping[str, FeatureTable],
    weights: Mapping[str, float],
    partition: Partition | None,
) -> Base | None:
    """This version with what an update of it would search again; None if its features were deleted."""
    inputs = json.loads(version.lineage["cm3.inputs"])
    parts = [pa.array([], pa.string())]
    former: dict[str, FeatureTable] = {}
    for name, now in vectors.items():
        try:
            before = read(store, store.get(version.dataset, f"features/{name}", inputs[f"features/{name}"]))
        except (UserError, OSError):
            return None
        parts.append(_differing(before, now))
        if partition is not None and len(vectors) > 1:
            former[name] = before
    if former:
        parts += [half_twins(assemble(former, weights)), half_twins(assemble(vectors, weights))]
    edges = polars.DataFrame(store.read(version))
    changed = polars.Series(pa.concat_arrays(parts), dtype=polars.String)
    affected = edges.filter(polars.col("neighbor_id").is_in(changed.implode()))["item_id"]
    searched = pa.array(polars.concat([changed, affected]).unique().to_list(), pa.string())
    searched = searched.filter(pc.is_in(searched, value_set=item_ids(vectors)))
    return Base(version, edges, pa.array(changed.to_list(), pa.string()), searched, partition)


def half_twins(layout: Layout) -> pa.Array:
    """Ids of the items that have the same vector as others by one feature, but not by every one.

    The first of such twins searches for all of them, in the clusters nearest to it, which are not those nearest to the
    others. So what the others are to find hangs on which of them is the first, and an update searches them all again.
    """
    fused = layout.fused_twin
    half = np.zeros(len(layout), bool)
    for feature in layout.features:
        twin = np.where(feature.row >= 0, feature.twin, fused)
        half |= np.isin(twin, twin[twin != fused])
    return layout.ids.filter(pa.array(half))


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
