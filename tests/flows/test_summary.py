"""What the texts of a run say of doubtful data; a record of a run that is damaged costs only itself."""

from pathlib import Path

import pytest
from rich.console import Console

from flows import extract, job, re_extract, summary
from pipeline.store import Store
from schemas.errors import UserError
from schemas.extract import ExtractSummary
from schemas.run import StageRecord


def stage(table: str, rows: int, **counts: float) -> StageRecord:
    return StageRecord(
        stage=table, table=table, version="v", path="p", rows=rows, reused=False, seconds=1.0, counts=counts, rate=None
    )


STAGES = (
    stage("items", 100, price_unreadable=6, title_unreadable=5, timestamp_unreadable=51, title_html=99),
    stage("interactions", 1000),
    stage("images", 100, ok=60, placeholder=40),
)


def test_columns_that_were_hardly_read_and_placeholders_are_named() -> None:
    price, times, pictures = summary.doubts(STAGES)
    assert price.startswith("Doubtful: price_unreadable 6 times, in 100 items")
    assert times.startswith("Doubtful: timestamp_unreadable 51 times, in 1,000 interactions")
    assert pictures.startswith("Left out: the pictures of 40 of 100 items")
    assert summary.doubts([stage("items", 100, price_unreadable=5), stage("images", 100, ok=100)]) == []


def test_every_text_of_an_extraction_says_so() -> None:
    done = ExtractSummary(
        dataset="x", started="", seconds=1.0, stages=STAGES, encoded={}, coverage={}, report="file:///r.html"
    )
    console = Console(record=True, width=200)
    console.print(extract.terminal(done))
    for text in (console.export_text(), extract.markdown(done)):
        assert all(sentence in text for sentence in summary.doubts(STAGES))


@pytest.mark.parametrize("text", ["", '{"dataset": "shop", "sta', "[]", "{}", "\xff"])
def test_a_damaged_record_is_one_line_and_counts_as_no_earlier_run(store: Store, text: str) -> None:
    for name in ("latest", "re-extract", "extract"):
        store.put(f"shop/_runs/{name}.json", text.encode("latin-1"))
    with pytest.raises(UserError, match=r"latest\.json is no record of a run .*The next run writes another") as told:
        summary.last(store, "shop")
    assert "\n" not in str(told.value)
    assert job.previous_tables(store, "shop") is None
    assert re_extract._last_run(store, "shop") is None
    assert extract._last_run(store, "shop") is None


@pytest.mark.parametrize("dataset", ["../outside", "/etc", "..", "shop/../../outside"])
def test_no_data_set_leaves_the_store(store: Store, tmp_path: Path, dataset: str) -> None:
    Store(tmp_path).put("outside/_runs/latest.json", b"{}")
    with pytest.raises(UserError, match="is no name in a store"):
        summary.last(store, dataset)
