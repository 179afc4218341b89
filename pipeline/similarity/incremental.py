"""Updating a published graph: what is searched again, and what the rest keeps.

An item is searched again against all others when its own vectors changed, or when a neighbour it had changed or went
away. Every other item keeps its neighbours; only the items searched again can enter its lists, and those comparisons
are made anyway. So an update compares `searched x all` items, not `all x all`, and ends in the same bits as a rebuild.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.similarity.candidates import top_k
from pipeline.similarity.layout import Catalogue, Ints, Raw, item_ids, read
from pipeline.similarity.search import Neighbours, Search
from pipeline.store import Store
from schemas.errors import UserError
from schemas.lineage import Lineage, TableVersion
from schemas.similarity import Edges, SimilarityConfig

logger = logging.getLogger(__name__)
WORTHWHILE = 0.5
"""With more than this share of items to search again, a rebuild is as cheap."""


@dataclass(frozen=True)
class Base:
    """A graph to start from.

    Attributes:
        edges: its rows.
        searched: ids of the items to search again.
    """

    version: TableVersion
    edges: polars.DataFrame
    searched: pa.Array

    def groups(self, ids: pa.Array) -> Ints:
        """0 for the items to search, 1 for the rest."""
        return 1 - np.asarray(pc.is_in(ids, value_set=self.searched)).astype(np.int64)


def find_base(
    store: Store, lineage: Lineage, raw: Mapping[str, Raw], weights: Mapping[str, float], config: SimilarityConfig
) -> Base | None:
    """The newest exact graph of the same data set, configuration, feature names and weights, if most of it still holds.

    A mutual graph has lost edges that an update would need, so it is always rebuilt.
    """
    if config.edges is Edges.MUTUAL:
        return None
    for version in reversed(store.versions(lineage.dataset, lineage.table)):
        if _comparable(version, lineage, weights):
            base = _compare(store, version, raw)
            share = len(base.searched) / max(len(item_ids(raw)), 1) if base else 1.0
            if base is not None and share <= WORTHWHILE:
                logger.info("similarity: updates %s, searches %.1f %% of the items", version.version, 100 * share)
                return base
    return None


def seed(search: Search, base: Base) -> None:
    """Give the items that are not searched again the neighbours they had, and the cuts that follow."""
    catalogue, front = search.catalogue, search.catalogue.front
    place = pc.index_in(pa.array(base.edges["item_id"].to_arrow()).cast(pa.string()), value_set=catalogue.ids)
    rows = place.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    place = pc.index_in(pa.array(base.edges["neighbor_id"].to_arrow()).cast(pa.string()), value_set=catalogue.ids)
    columns = place.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    kept = (rows >= front) & (rows != columns)
    for index, (channel, twin) in enumerate(zip(search.channels, search.twins, strict=True)):
        values = _published(base.edges, catalogue, index)
        own = kept & ~np.isnan(values)
        own[own] &= twin[rows[own]] == rows[own]
        edges = Neighbours(*top_k(rows[own], columns[own], values[own], catalogue.order, search.k))
        channel.begin(_leaders(edges, twin, front), edges)


def _published(edges: polars.DataFrame, catalogue: Catalogue, channel: int) -> np.ndarray:
    """A channel's similarity of each published edge, NaN where it has none."""
    names = [f"similarity_{feature.name}" for feature in catalogue.features]
    if channel < len(names):
        return edges[names[channel]].fill_null(float("nan")).to_numpy()
    weighty = [name for name, feature in zip(names, catalogue.features, strict=True) if feature.weight > 0]
    known = edges.select(polars.any_horizontal(polars.col(*weighty).is_not_null())).to_series().to_numpy()
    return np.where(known, edges["similarity"].to_numpy(), np.float32("nan"))


def _leaders(edges: Neighbours, twin: np.ndarray, front: int) -> Neighbours:
    """The edges to the first of twins, without those that the search will meet."""
    keep = (edges.columns >= front) & (twin[edges.columns] == edges.columns)
    return Neighbours(edges.rows[keep], edges.columns[keep], edges.values[keep])


def _comparable(version: TableVersion, lineage: Lineage, weights: Mapping[str, float]) -> bool:
    ours = lineage.metadata("")
    same = all(version.lineage.get(key) == ours[key] for key in ("cm3.stage_version", "cm3.config"))
    names = set(json.loads(version.lineage["cm3.inputs"])) == set(lineage.inputs)
    measured = json.loads(version.lineage.get("cm3.measured", "{}"))
    return same and names and measured.get("exact", False) and measured.get("weights") == dict(weights)


def _compare(store: Store, version: TableVersion, raw: Mapping[str, Raw]) -> Base | None:
    inputs = json.loads(version.lineage["cm3.inputs"])
    changed = pa.array([], pa.string())
    for name, now in raw.items():
        try:
            before = read(store, store.get(version.dataset, f"features/{name}", inputs[f"features/{name}"]))
        except (UserError, OSError):  # the old features were deleted: nothing to compare with
            return None
        changed = pa.concat_arrays([changed, _differing(before, now)])
    edges = polars.DataFrame(store.read(version))
    moved = polars.Series(changed)
    struck = edges.filter(polars.col("neighbor_id").is_in(moved.implode()))["item_id"]
    searched = pa.array(polars.concat([moved.cast(polars.String), struck]).unique().to_list(), pa.string())
    return Base(version, edges, searched.filter(pc.is_in(searched, value_set=item_ids(raw))))


def _differing(before: Raw, now: Raw) -> pa.Array:
    """Ids that came, went, or have another vector (or none, or one for the first time)."""
    was = pc.index_in(now[0], value_set=before[0]).fill_null(-1).to_numpy(zero_copy_only=False)
    gone = before[0].filter(pc.invert(pc.is_in(before[0], value_set=now[0])))
    if before[1].shape[1] != now[1].shape[1]:
        return pa.concat_arrays([now[0], gone])
    same = np.zeros(len(was), bool)
    for start in range(0, len(was), 8192):
        part = was[start : start + 8192]
        old, new = before[1][np.maximum(part, 0)], now[1][start : start + 8192]
        same[start : start + 8192] = (part >= 0) & (old.view(np.int32) == new.view(np.int32)).all(axis=1)
    return pa.concat_arrays([now[0].filter(pa.array(~same)), gone])
