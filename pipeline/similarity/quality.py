"""How good the graph is, feature by feature: the figures that tell which encoder is worth its cost."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import polars
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from pipeline.similarity.vectors import presence
from pipeline.store import Store
from schemas.lineage import TableVersion
from schemas.similarity import FUSED, GRAPH_QUALITY, SimilarityConfig

PAIRS_AT_ONCE = 1 << 18
SEED = 0

Row = tuple[str, str, str | None, float]
Rows = list[Row]


def assess(
    *,
    store: Store,
    graph: TableVersion,
    features: Mapping[str, TableVersion],
    interactions: TableVersion | None = None,
) -> pa.Table:
    """Measures of a published similarity graph.

    Args:
        graph: the version that `pipeline.similarity.run` gave for these `features`.
        interactions: with them, neighbours are compared with what users chose together in training.

    Returns: `GRAPH_QUALITY` rows; `schemas.similarity` explains each measure.
    """
    config = SimilarityConfig.model_validate_json(graph.lineage["cm3.config"])
    items = presence(store, features)
    edges = own_edges(store, graph, sorted(features), config.k, items["item_id"])
    rows = _coverage(items)
    for name, pairs in edges.items():
        has = items[name].to_numpy() if name != FUSED else items.select(polars.any_horizontal(*features)).to_series()
        rows += _shape(name, pairs, np.asarray(has))
    rows += _agreement(edges, items)
    if interactions is not None:
        rows += _co_consumption(edges, items["item_id"], store.read(interactions, ["user_id", "item_id", "split"]))
    names, subjects, others, values = zip(*rows, strict=True)
    return pa.table([list(names), list(subjects), pa.array(others, pa.string()), list(values)], schema=GRAPH_QUALITY)


def own_edges(
    store: Store, graph: TableVersion, names: list[str], k: int, ids: polars.Series
) -> dict[str, NDArray[np.int64]]:
    """Each feature's own k nearest, and the fused ones, from the published union: (edges, 2) indices into `ids`."""
    table = polars.DataFrame(store.read(graph))
    place = polars.DataFrame({"item_id": ids, "place": np.arange(len(ids))})
    table = table.join(place.rename({"place": "row"}), on="item_id")
    table = table.join(place.rename({"item_id": "neighbor_id", "place": "column"}), on="neighbor_id")
    columns = {name: f"similarity_{name}" for name in names} | ({FUSED: "similarity"} if len(names) > 1 else {})
    edges = {}
    for name, column in columns.items():
        own = table.filter(polars.col(column).is_not_null() & (polars.col("row") != polars.col("column")))
        own = own.sort(["row", column, "neighbor_id"], descending=[False, True, False])
        nearest = own.group_by("row", maintain_order=True).head(k)
        edges[name] = nearest.select("row", "column").to_numpy().astype(np.int64)
    return edges


def _coverage(items: polars.DataFrame) -> Rows:
    rows: Rows = []
    for name in items.columns[1:]:
        count = float(items[name].sum())
        rows += [("items", name, None, count), ("coverage", name, None, count / max(len(items), 1))]
    return rows


def _shape(name: str, pairs: NDArray[np.int64], has: NDArray[np.bool_]) -> Rows:
    """Degrees, hubs, isolated items and components among the items that have the feature."""
    n, present = len(has), int(has.sum())
    incoming = np.bincount(pairs[:, 1], minlength=n)[has]
    linked = np.zeros(n, bool)
    linked[pairs.ravel()] = True
    adjacency = sparse.csr_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, label = sparse.csgraph.connected_components(adjacency, directed=False)
    sizes = np.bincount(label[linked])
    sizes = sizes[sizes > 0]
    uneven = incoming.std() > 0 if present else False
    return [
        ("degree", name, None, len(pairs) / present if present else 0.0),
        ("hubness", name, None, (polars.Series(incoming).skew() or 0.0) if uneven else 0.0),
        ("largest hub", name, None, float(incoming.max(initial=0))),
        ("never a neighbour", name, None, float((incoming == 0).mean()) if present else 0.0),
        ("isolated", name, None, float(n - linked.sum())),
        ("components", name, None, float(len(sizes))),
        ("largest component", name, None, float(sizes.max() / linked.sum()) if len(sizes) else 0.0),
    ]


def _agreement(edges: Mapping[str, NDArray[np.int64]], items: polars.DataFrame) -> Rows:
    """The share of the neighbours by one feature that are neighbours by the other too, over items that have both."""
    rows: Rows = []
    n = len(items)
    keys = {name: pairs[:, 0] * n + pairs[:, 1] for name, pairs in edges.items()}
    for a, b in combinations(edges, 2):
        both = np.ones(n, bool)
        for name in {a, b} - {FUSED}:
            both &= items[name].to_numpy()
        mine = keys[a][both[edges[a][:, 0]]]
        shared = np.isin(mine, keys[b])
        rows.append(("agreement", a, b, float(shared.mean()) if len(mine) else 0.0))
    return rows


def _co_consumption(edges: Mapping[str, NDArray[np.int64]], ids: polars.Series, table: pa.Table) -> Rows:
    """Share of pairs of neighbours that some user chose both of, and the same with the neighbours shuffled."""
    chosen = choices(ids, table, "train")
    popular = np.diff(chosen.indptr) > 0
    rows: Rows = []
    for name, pairs in edges.items():
        judged = pairs[popular[pairs[:, 0]] & popular[pairs[:, 1]]] if len(pairs) else pairs
        shuffled = np.column_stack([judged[:, 0], np.random.default_rng(SEED).permutation(judged[:, 1])])
        ours, chance = share_a_user(chosen, judged), share_a_user(chosen, shuffled)
        rows += [("share a user", name, None, ours), ("share a user by chance", name, None, chance)]
        rows += [("lift", name, None, ours / chance)] if chance > 0 else []
    return rows


def choices(ids: polars.Series, table: pa.Table, split: str) -> sparse.csr_array:
    """(items, users) 0/1 matrix of one split's interactions."""
    frame = polars.DataFrame(table).filter(polars.col("split") == split)
    frame = frame.join(polars.DataFrame({"item_id": ids, "row": np.arange(len(ids))}), on="item_id")
    users = frame["user_id"].cast(polars.Categorical).to_physical().to_numpy().astype(np.int64)
    width = int(users.max(initial=-1)) + 1
    ones = np.ones(len(frame), np.float32)
    return sparse.csr_array((ones, (frame["row"].to_numpy(), users)), shape=(len(ids), max(width, 1)))


def share_a_user(chosen: sparse.csr_array, pairs: NDArray[np.int64]) -> float:
    """Share of item pairs that at least one user chose both of."""
    shared = 0
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        part = pairs[start : start + PAIRS_AT_ONCE]
        both = chosen[part[:, 0]].multiply(chosen[part[:, 1]]).sum(axis=1)
        shared += int((both > 0).sum())
    return shared / len(pairs) if len(pairs) else 0.0
