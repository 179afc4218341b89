"""Metrics over seeds."""

import polars

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
