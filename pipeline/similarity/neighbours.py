"""From vectors to the edges of every item, and from edges to published rows."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.similarity import approximate, incremental
from pipeline.similarity.edges import Neighbours, mutual, places
from pipeline.similarity.layout import Layout, assemble
from pipeline.similarity.on_cluster import ClusterSearch
from pipeline.similarity.partition import Partition, centroids, nearest_clusters
from pipeline.similarity.schedule import exact_schedule
from pipeline.similarity.search import Search
from pipeline.similarity.vectors import FeatureTable, Floats, Ints, item_ids
from schemas.similarity import Edges, SimilarityConfig

WRITE_ITEMS = 4096
FIRST_GUESS = 32
"""Nearest clusters found for each item before it is known how many are needed: seldom more are."""


class Graph(NamedTuple):
    """A similarity graph in memory.

    Attributes:
        edges: of each item to its k nearest others, by channel.
        measured: how the graph was computed, for the table's metadata.
        partition: what pruned the search, unless it was exact.
    """

    layout: Layout
    edges: list[Neighbours]
    measured: dict[str, Any]
    partition: Partition | None = None


def nearest(
    vectors: Mapping[str, FeatureTable],
    weights: Mapping[str, float],
    config: SimilarityConfig,
    base: incremental.Base | None,
    cluster: ClusterSearch | None = None,
) -> Graph:
    """The k nearest of every item by each channel: updated from a base, exact, or approximate where items are many.

    Args:
        cluster: whose workers compare the items; not used with a base, which leaves little to compare.
    """
    ids = item_ids(vectors)
    if base.partition if base else len(ids) > config.approximate_above:
        graph = _approximate(vectors, weights, config, base, cluster)
    else:
        graph = _exact(assemble(vectors, weights, base.groups(ids) if base else None), config, base, cluster)
    if config.edges is Edges.MUTUAL:
        return graph._replace(edges=[mutual(edges) for edges in graph.edges])
    return graph


def _exact(
    layout: Layout, config: SimilarityConfig, base: incremental.Base | None, cluster: ClusterSearch | None
) -> Graph:
    search = Search(layout, config.k - config.include_self)
    if base is not None:
        incremental.seed(search, base)
        cluster = None
    schedule = exact_schedule(search.bounds, layout.front)
    leaders = cluster.run(search, schedule) if cluster else search.run(schedule)
    updated = base.version.version if base else None
    return Graph(layout, search.with_twins(leaders), {"exact": True, "searched": layout.front, "updated": updated})


def _approximate(
    vectors: Mapping[str, FeatureTable],
    weights: Mapping[str, float],
    config: SimilarityConfig,
    base: incremental.Base | None,
    cluster: ClusterSearch | None,
) -> Graph:
    partition = base.partition if base else None
    plain = assemble(vectors, weights)
    centres = partition.centres if partition else centroids(plain)
    compared = partition.compared if partition else None
    # As many in an update as at first: which of equally near clusters are found hangs on how many are wanted.
    near = nearest_clusters(plain, centres, plain.position, min(FIRST_GUESS, len(centres)))
    del plain
    ids = item_ids(vectors)
    group = approximate.groups(near[:, 0].astype(np.int64), base.has_changed(ids) if base else np.ones(len(ids), bool))
    layout = assemble(vectors, weights, group)
    search = Search(layout, config.k - config.include_self)
    reach = approximate.Reach(search, centres, near[layout.order], config, compared)
    searched = np.ones(len(ids), bool)
    if base is not None:
        incremental.seed(search, base)
        searched = base.is_searched(layout.ids)
        cluster = None
    schedule = reach.schedule(searched)
    leaders = cluster.run(search, schedule, group) if cluster else search.run(schedule)
    edges = search.with_twins(leaders)
    updated = base.version.version if base else None
    measured = reach.report(edges) | {"searched": int(searched.sum()), "updated": updated}
    if partition is None and not reach.exact:
        partition = Partition(centres, reach.compared, len(ids))
    return Graph(layout, edges, measured, partition)


def rows(graph: Graph, config: SimilarityConfig) -> Iterator[pa.Table]:
    """The published rows, by item_id and rank, a few thousand items at a time."""
    layout, n = graph.layout, len(graph.layout)
    # One integer per edge: the row's order above the column's. Sorted, it is the published order of items.
    keys = [layout.order[edges.rows] * n + layout.order[edges.columns] for edges in graph.edges]
    if config.edges is Edges.SYMMETRIC:
        keys += [layout.order[edges.columns] * n + layout.order[edges.rows] for edges in graph.edges]
    if config.include_self:
        items = layout.order[layout.pattern > 0]
        keys.append(items * n + items)
    edges_sorted = np.sort(np.concatenate([np.empty(0, np.int64), *keys]))
    del keys
    edges_sorted = edges_sorted[np.r_[True, edges_sorted[1:] != edges_sorted[:-1]][: len(edges_sorted)]]
    for start in range(0, n, WRITE_ITEMS):
        first, last = np.searchsorted(edges_sorted, (start * n, min(start + WRITE_ITEMS, n) * n))
        part = edges_sorted[first:last]
        yield _ranked(layout, layout.position[part // n], layout.position[part % n])


def _ranked(layout: Layout, items: Ints, neighbors: Ints) -> pa.Table:
    """Score edges by every feature and rank each item's by fused similarity, ties by the neighbour's item_id."""
    cosines = [feature.cosine(items, neighbors) for feature in layout.features]
    fused = layout.fused(cosines).astype(np.float32)
    by_rank = np.lexsort((layout.order[neighbors], -fused, layout.order[items]))
    items, neighbors = items[by_rank], neighbors[by_rank]
    columns = {
        "item_id": layout.ids.take(pa.array(items)),
        "neighbor_id": layout.ids.take(pa.array(neighbors)),
        "rank": pa.array((places(items) + 1).astype(np.int32)),
        "similarity": pa.array(fused[by_rank]),
    }
    for feature, cosine in zip(layout.features, cosines, strict=True):
        column: Floats = cosine[by_rank].astype(np.float32)
        columns[f"similarity_{feature.name}"] = pa.array(column, mask=np.isnan(column))
    return pa.table(columns)
