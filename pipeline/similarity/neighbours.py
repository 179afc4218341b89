"""From vectors to the edges of every item, and from edges to published rows."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.similarity import approximate, incremental
from pipeline.similarity.candidates import places, top_k
from pipeline.similarity.layout import Catalogue, Floats, Ints, Raw, assemble, item_ids
from pipeline.similarity.on_cluster import Elsewhere
from pipeline.similarity.search import Neighbours, Search, exact_schedule
from schemas.similarity import Edges, SimilarityConfig

WRITE_ITEMS = 4096

Found = tuple[Catalogue, list[Neighbours], dict[str, Any]]
"""The items, the edges of each to its k nearest others by channel, and what was measured on the way."""


def nearest(
    raw: Mapping[str, Raw],
    weights: Mapping[str, float],
    config: SimilarityConfig,
    base: incremental.Base | None,
    elsewhere: Elsewhere | None = None,
) -> Found:
    """The k nearest of every item by each channel: updated from a base, exact, or approximate where items are many.

    Args:
        elsewhere: who compares; this process where None, and where little is to be compared because there is a base.
    """
    ids = item_ids(raw)
    if base is None and len(ids) > config.approximate_above:
        found = _approximate(raw, weights, config, elsewhere)
    else:
        found = _exact(assemble(raw, weights, base.groups(ids) if base else None), config, base, elsewhere)
    if config.edges is Edges.MUTUAL:
        return found[0], [mutual(edges) for edges in found[1]], found[2]
    return found


def _exact(
    catalogue: Catalogue, config: SimilarityConfig, base: incremental.Base | None, elsewhere: Elsewhere | None
) -> Found:
    search = Search(catalogue, config.k - config.include_self)
    if base is not None:
        incremental.seed(search, base)
        elsewhere = None
    schedule = exact_schedule(search)
    found = elsewhere.run(search, schedule) if elsewhere else search.run(schedule)
    edges = [share_with_twins(search, channel, part) for channel, part in enumerate(found)]
    updated = base.version.version if base else None
    return catalogue, edges, {"exact": True, "searched": catalogue.front, "updated": updated}


def _approximate(
    raw: Mapping[str, Raw], weights: Mapping[str, float], config: SimilarityConfig, elsewhere: Elsewhere | None
) -> Found:
    plain = assemble(raw, weights)
    centres = approximate.centroids(plain)
    cluster = approximate.nearest_clusters(plain, centres, plain.position, 1)[:, 0].astype(np.int64)
    del plain
    catalogue = assemble(raw, weights, cluster)
    k = config.k - config.include_self
    reach = approximate.Reach(catalogue, centres, config, k)
    search = Search(catalogue, k)
    schedule = reach.schedule(search)
    found = elsewhere.run(search, schedule, cluster) if elsewhere else search.run(schedule)
    edges = [share_with_twins(search, channel, part) for channel, part in enumerate(found)]
    return catalogue, edges, reach.report(edges)


def share_with_twins(search: Search, channel: int, edges: Neighbours) -> Neighbours:
    """Neighbours of every item from those of the first of its twins: its other twins, and the neighbours' twins."""
    twin, score = search.twins[channel], search.channels[channel].score
    if not (twin != np.arange(len(twin))).any():
        return edges
    order, k = search.catalogue.order, search.k
    member = np.lexsort((order, twin))
    leaders, starts, counts = np.unique(twin[member], return_index=True, return_counts=True)
    start, count = (np.zeros(len(twin), np.int64) for _ in range(2))
    start[leaders], count[leaders] = starts, np.minimum(counts, k + 1)

    def members(of: Ints) -> tuple[Ints, Ints]:
        """The first k + 1 twins of each leader, and which entry of `of` each belongs to."""
        owner = np.repeat(np.arange(len(of)), count[of])
        place = np.arange(len(owner)) - np.repeat(np.cumsum(count[of]) - count[of], count[of])
        return member[start[of][owner] + place], owner

    crowded = leaders[counts > 1]
    twins, owner = members(crowded)
    others, at = members(edges.columns)
    own = score(crowded, crowded)
    row = np.r_[crowded[owner], edges.rows[at]]
    column, value = np.r_[twins, others], np.r_[own[owner], edges.values[at]]
    rows, columns, values = top_k(row, column, value, order, k + 1)
    return _for_each_twin(twin, order, k, Neighbours(rows, columns, values))


def _for_each_twin(twin: Ints, order: Ints, k: int, edges: Neighbours) -> Neighbours:
    """Copy each leader's edges to its twins, drop self-loops, keep k."""
    first = np.searchsorted(edges.rows, np.arange(len(twin) + 1))
    lengths = (first[1:] - first[:-1])[twin]
    rows = np.repeat(np.arange(len(twin)), lengths)
    source = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + first[twin][rows]
    columns, values = edges.columns[source], edges.values[source]
    keep = rows != columns
    return Neighbours(*top_k(rows[keep], columns[keep], values[keep], order, k))


def mutual(edges: Neighbours) -> Neighbours:
    """The edges whose reverse is an edge too."""
    size = int(max(edges.rows.max(initial=0), edges.columns.max(initial=0))) + 1
    keep = np.isin(edges.rows * size + edges.columns, edges.columns * size + edges.rows)
    return Neighbours(edges.rows[keep], edges.columns[keep], edges.values[keep])


def rows(catalogue: Catalogue, channels: list[Neighbours], config: SimilarityConfig) -> Iterator[pa.Table]:
    """The published rows, by item_id and rank, a few thousand items at a time."""
    n = len(catalogue)
    # One integer an edge: the row's order above the column's. Sorted, it is the published order of items.
    keys = [catalogue.order[edges.rows] * n + catalogue.order[edges.columns] for edges in channels]
    if config.edges is Edges.SYMMETRIC:
        keys += [catalogue.order[edges.columns] * n + catalogue.order[edges.rows] for edges in channels]
    if config.include_self:
        known = catalogue.order[catalogue.pattern > 0]
        keys.append(known * n + known)
    edges_sorted = np.sort(np.concatenate([np.empty(0, np.int64), *keys]))
    del keys
    edges_sorted = edges_sorted[np.r_[True, edges_sorted[1:] != edges_sorted[:-1]][: len(edges_sorted)]]
    for start in range(0, n, WRITE_ITEMS):
        first, last = np.searchsorted(edges_sorted, (start * n, min(start + WRITE_ITEMS, n) * n))
        part = edges_sorted[first:last]
        yield _ranked(catalogue, catalogue.position[part // n], catalogue.position[part % n])


def _ranked(catalogue: Catalogue, items: Ints, neighbors: Ints) -> pa.Table:
    """Score edges by every feature and rank each item's by fused similarity, ties by the neighbour's item_id."""
    cosines = [feature.cosine(items, neighbors) for feature in catalogue.features]
    fused = catalogue.fused(cosines).astype(np.float32)
    ranked = np.lexsort((catalogue.order[neighbors], -fused, catalogue.order[items]))
    items, neighbors = items[ranked], neighbors[ranked]
    columns = {
        "item_id": catalogue.ids.take(pa.array(items)),
        "neighbor_id": catalogue.ids.take(pa.array(neighbors)),
        "rank": pa.array(_rank(items)),
        "similarity": pa.array(fused[ranked]),
    }
    for feature, cosine in zip(catalogue.features, cosines, strict=True):
        column: Floats = cosine[ranked].astype(np.float32)
        columns[f"similarity_{feature.name}"] = pa.array(column, mask=np.isnan(column))
    return pa.table(columns)


def _rank(items: Ints) -> NDArray[np.int32]:
    return (places(items) + 1).astype(np.int32)
