"""The users that a report shows."""

import re

from tests.pipeline.report.conftest import Run
from tests.support.html_page import HtmlPage


def test_users_lists_are_theirs_and_hits_are_marked(hostile_run: Run, page: HtmlPage) -> None:
    store, tables = hostile_run
    users = re.findall(r"User (U\d+)", page.text)
    assert len(users) == 6
    events = store.read(tables["interactions"]).to_pylist()
    lists = store.read(tables["recommendations"]).to_pylist()
    hits = 0
    for user in users:
        later = {e["item_id"] for e in events if e["user_id"] == user and e["split"] == "test"}
        hits += len(later & {r["item_id"] for r in lists if r["user_id"] == user and r["rank"] <= 10})
    assert page.text.count("✓ chosen") == hits
