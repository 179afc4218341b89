"""Metrics over seeds."""

import polars

from pipeline.report import results
from schemas.report import ReportConfig
from tests.pipeline.report.conftest import Run
from tests.support.html_page import HtmlPage


def test_metrics_are_means_with_the_sample_deviation_over_seeds(hostile_run: Run, page: HtmlPage) -> None:
    store, tables = hostile_run
    frame = polars.from_arrow(store.read(tables["metrics"]))
    assert isinstance(frame, polars.DataFrame)
    values = frame.filter(model="cm3", split="test", metric="ndcg", k=20)["value"]
    assert f"{values.mean():.4f} ± {values.std():.4f}" in page.text
    assert "over 3 seeds" in page.text
    assert "LightGCN" in page.text


def test_hidden_items_have_a_table_of_their_own_the_best_first(hostile_run: Run, page: HtmlPage) -> None:
    store, tables = hostile_run
    hidden = results.hidden(store, tables["metrics"], ReportConfig())
    assert hidden is not None
    assert hidden["models"] == ["content-knn", "item-weights", "random"]
    assert hidden["best"]["cold", "recall"] == 0.2222
    assert "321 users find those that they chose" in page.text
    assert "0.1111" in page.text
    assert results.hidden(store, None, ReportConfig()) is None
