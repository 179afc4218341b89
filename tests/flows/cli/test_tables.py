"""Tables fit the terminal without losing what a row is about."""

import io

import pytest
from rich.console import Console

from flows.cli import research
from flows.cli.tables import Shown, fitted
from schemas.training import ComparisonRow, EvaluationConfig


def printed(width: int, columns: list[Shown]) -> str:
    """The table on a terminal of that width."""
    console = Console(width=width, file=io.StringIO())
    console.print(fitted(columns, width=width))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_ids_and_numbers_stay_whole_titles_end_in_dots_and_further_columns_go(width: int) -> None:
    item, title = "B" * 20, "A long title " * 5
    features = [Shown(f"feature{n}", ["0.123"], numeric=True, optional=True) for n in range(6)]
    shown = printed(width, [Shown("neighbour", [item]), Shown("title", [title], cut=True), *features])
    assert item in shown
    assert "0.123" in shown
    assert max(map(len, shown.splitlines())) <= width
    assert ("not shown in this width: " in shown) == ("feature5 \u2503" not in shown)
    assert ("…" in shown) == (title not in shown)


def test_one_run_has_no_spread_and_the_recommenders_name_stays() -> None:
    row = {"validation": 0.2, "p_value": None, "seconds": 1234, "parameters": 12_345_678, "metrics": {}}
    rows = [
        ComparisonRow(model="cm3 without the sentences", runs=1, mean=0.1, spread=0.0, **row),
        ComparisonRow(model="popularity", runs=2, mean=0.1, spread=0.01, **row),
    ]
    table = research._comparison(rows, EvaluationConfig())
    assert list(table.columns[0].cells) == ["cm3 without the sentences", "popularity"]
    assert list(table.columns[1].cells) == ["0.1000 ± –", "0.1000 ± 0.0100"]


def test_a_comparison_fits_eighty_columns_with_its_corrected_significance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    row = {
        "mean": 0.2981,
        "spread": 0.0007,
        "validation": 0.2,
        "seconds": 1234,
        "parameters": 12_345_678,
        "metrics": {},
    }
    against = {"p_value": 1e-123, "p_holm": 1.2e-122, "ahead": 0.5, "ahead_low": 0.421, "ahead_high": 1.034}
    rows = [
        ComparisonRow(model="cm3", runs=5, low=0.29, high=0.31, p_value=None, **row),
        ComparisonRow(model="cm3 fused calibration", runs=5, low=0.29, high=0.31, **row, **against),
    ]
    console = Console(width=80, file=io.StringIO())
    console.print(research._comparison(rows, EvaluationConfig()))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, shown.splitlines())) <= 80
    assert "+50.0 (+42.1, +103.4)" in shown
    assert "1.2e-122" in shown
