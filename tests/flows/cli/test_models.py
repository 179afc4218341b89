"""diff and rollback of registered versions."""

import json

from pipeline.store import Store
from schemas.run import RunSummary
from tests.support.command_line import cm3

Finished = tuple[Store, RunSummary]


def test_a_version_compared_with_itself_has_not_changed(finished: Finished) -> None:
    store, _ = finished
    same = json.loads(cm3("diff", "demo", "1", "1", "--json", store=store.uri).stdout)
    assert same["items_both"] > 0
    assert same["neighbor_overlap"] == 1
    assert "drift" in cm3("diff", "demo", "1", "1", store=store.uri).stdout
