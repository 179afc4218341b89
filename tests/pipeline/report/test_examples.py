"""The users that a report shows."""

import re
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import report
from pipeline.store import Store
from schemas import tables as contract
from schemas.report import ReportConfig
from tests.pipeline.report.conftest import Run
from tests.support.html_page import HtmlPage
from tests.support.published import publish


def test_a_users_list_gives_the_chosen_items_that_speak_for_each_place(hostile_run: Run, page: HtmlPage) -> None:
    store, tables = hostile_run
    users = re.findall(r"User (U\d+)", page.text)
    assert len(users) == 6
    lists = [row for row in store.read(tables["recommendations"]).to_pylist() if row["user_id"] in users]
    reasons = [row["because"] for row in lists if row["rank"] <= 10 and row["because"]]
    assert reasons
    assert page.text.count("because of ") == len(reasons)
    links = [attributes for tag, attributes in page.tags if tag == "a" and attributes.get("class") == "reason"]
    assert len(links) == sum(map(len, reasons))


def test_a_list_without_chosen_items_shows_no_hits_and_says_why(page: HtmlPage) -> None:
    assert "the lists leave out everything that they chose" in page.text
    assert "✓" not in page.text
    assert "Chose later" not in page.text
    assert "held-out choices among" not in page.text


@pytest.mark.parametrize("exclude", ["train", "none"])
def test_hits_are_marked_where_lists_may_hold_choices_that_training_has_not_seen(
    hostile_run: Run, store: Store, tmp_path: Path, exclude: str
) -> None:
    run, tables = hostile_run
    held_out = [row for row in run.read(tables["interactions"]).to_pylist() if row["split"] == "test"]
    rows = [{"user_id": row["user_id"], "item_id": row["item_id"], "rank": 1, "score": 1.0} for row in held_out]
    table = pa.Table.from_pylist(rows, schema=contract.RECOMMENDATIONS)
    settings = {"refit": False, "exclude": exclude}
    lists = publish(store, "recommendations", table, dataset="demo", config=settings)
    output = tmp_path / "report.html"
    config = ReportConfig(thumbnail=48, users=2)
    report.run(store=run, tables={**tables, "recommendations": lists}, output=output, config=config)
    text = HtmlPage(output.read_text(encoding="utf-8")).text
    hits = re.findall(r"(\d+) of \d+ held-out choices? among the top 10", text)
    assert len(hits) == text.count("Chose later (held out)") == 2
    assert sum(map(int, hits)) == text.count("✓ chosen") >= 2
    assert "all come from one training, on the training split" in text


def test_lists_that_leave_nothing_out_mark_what_training_has_seen(
    hostile_run: Run, store: Store, tmp_path: Path
) -> None:
    run, tables = hostile_run
    rows = [
        {"user_id": row["user_id"], "item_id": row["item_id"], "rank": 1, "score": 1.0}
        for row in run.read(tables["interactions"]).to_pylist()
    ]
    table = pa.Table.from_pylist(rows, schema=contract.RECOMMENDATIONS)
    lists = publish(store, "recommendations", table, dataset="demo", config={"exclude": "none"})
    output = tmp_path / "report.html"
    config = ReportConfig(thumbnail=48, users=2)
    report.run(store=run, tables={**tables, "recommendations": lists}, output=output, config=config)
    text = HtmlPage(output.read_text(encoding="utf-8")).text
    assert "the lists may hold them, marked “chosen before”" in text
    assert text.count(" chosen before ") >= 2
    assert "✓" not in text
