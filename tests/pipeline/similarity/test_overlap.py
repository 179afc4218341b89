"""How much of the graph stays: on pairs that can be counted by hand, and on a graph of which a part is compared."""

import pyarrow as pa
import pytest

from pipeline.similarity import overlap
from pipeline.store import Store
from schemas.lineage import TableVersion
from tests.support.published import publish

Edges = list[tuple[str, str]]


def graph(store: Store, edges: Edges) -> TableVersion:
    table = pa.Table.from_pylist([{"item_id": item, "neighbor_id": neighbor} for item, neighbor in edges])
    return publish(store, "similarity", table, dataset="shop", config=edges)


def test_edges_of_both_are_shared_out_of_those_of_either(store: Store) -> None:
    before = graph(store, [("a", "b"), ("a", "c"), ("b", "a"), ("gone", "a")])
    now = graph(store, [("a", "b"), ("a", "new"), ("b", "a"), ("new", "a")])
    assert overlap.overlap(store, before, now) == 2 / 4
    assert overlap.overlap(store, now, now) == 1.0


def test_graphs_without_an_item_in_common_have_none(store: Store) -> None:
    assert overlap.overlap(store, graph(store, [("a", "b")]), graph(store, [("c", "d")])) is None


def test_of_a_large_graph_the_same_items_are_compared(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [f"i{n}" for n in range(2000)]
    before = graph(store, [(item, f"{item}{side}") for item in items for side in "ab"])
    now = graph(store, [(item, f"{item}{side}") for item in reversed(items) for side in "bc"])
    monkeypatch.setattr(overlap, "MOST_EDGES", 400)
    assert len(overlap._edges(store, now, 10)) < 1000
    assert overlap.overlap(store, before, now) == 1 / 3
