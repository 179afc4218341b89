"""diff and rollback of registered versions."""

import json

from rich.table import Table

from flows.cli import models
from pipeline.store import Store
from schemas.diff import Diff, Pair
from schemas.run import RunSummary
from tests.support.command_line import cm3

Finished = tuple[Store, RunSummary]


def test_a_version_compared_with_itself_is_the_same_in_one_line(finished: Finished) -> None:
    store, _ = finished
    same = json.loads(cm3("diff", "demo", "1", "1", "--json", store=store.uri).stdout)
    assert same["items_both"] > 0
    assert same["neighbor_overlap"] == 1
    shown = cm3("diff", "demo", "1", "1", store=store.uri).stdout
    assert shown == "the same: items, all coverage, all metrics, neighbor overlap 1, graph overlap 1, no drift\n"


def test_a_difference_is_shown_alone() -> None:
    metrics = {"test ndcg@20": Pair(a=0.1, b=0.2), "test hr@20": Pair(a=0.3, b=0.30001)}
    common = {"dataset": "shop", "a": 1, "b": 2, "items_both": 5, "items_only_a": 0, "neighbors": 10, "most_moved": {}}
    result = Diff(
        **common, items_only_b=1, coverage={}, metrics=metrics, neighbor_overlap=1.0, graph_overlap=None, drift=0.5
    )
    table, same = models._differences(result)
    assert isinstance(table, Table)
    assert list(table.columns[0].cells) == ["items", "test ndcg@20", "graph overlap", "drift"]
    assert same == "the same: 1 metrics, neighbor overlap 1"
