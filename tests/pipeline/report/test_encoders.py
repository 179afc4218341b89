"""The comparison of encoders in the report: its figures, and one sentence that says which encoder pays."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import report
from pipeline.report import encoders
from pipeline.store import Store
from schemas.encoder_comparison import ENCODER_COMPARISON, EncoderPair, EncoderRow
from schemas.lineage import TableVersion
from schemas.report import ReportConfig
from schemas.training import CM3Config
from tests.support.html_page import HtmlPage
from tests.support.published import publish


def row(encoder: str, seconds: float | None, warm: float, cold: float | None, price: float | None = 0.0) -> EncoderRow:
    figures: dict[str, object] = {
        "coverage": 1.0,
        "bytes": 100.0,
        "share_a_user": 0.5,
        "by_chance": 0.2,
        "warm_spread": None,
    }
    figures |= {
        "encoder": encoder,
        "seconds": seconds,
        "price": price,
        "warm": warm,
        "cold": cold,
        "cold_spread": 0.01,
    }
    return EncoderRow.model_validate(figures | {"model": "m"})


def pair(measure: str, p_holm: float | None, encoder: str = "small", other: str = "large") -> EncoderPair:
    return EncoderPair.model_validate(
        {"encoder": encoder, "other": other, "measure": measure, "ahead": 0.1, "p_value": 0.01, "p_holm": p_holm}
    )


ROWS = [row("small", 0.001, 0.10, 0.05), row("large", 0.004, 0.12, 0.09)]


@pytest.mark.parametrize(
    ("rows", "pairs", "sentence"),
    [
        (ROWS, [pair("warm", 0.2), pair("cold", 0.5)], "small pays: it is the cheapest, and none"),
        (
            ROWS,
            [pair("warm", 0.2), pair("cold", 0.003)],
            "large pays over small, the cheapest: on hidden items 0.0900 against 0.0500 (p 0.003 after Holm), at 4 "
            "times the seconds per content.",
        ),
        (
            [ROWS[0], row("large", 0.004, 0.08, 0.09)],
            [pair("warm", 0.01), pair("cold", 0.003)],
            "small pays",
        ),
        ([ROWS[0], row("large", 0.0, 0.12, None)], [pair("warm", 0.01)], "large pays: it is the cheapest"),
        (
            [ROWS[0], row("large", None, 0.12, 0.1)],
            [pair("warm", 0.01)],
            "Which encoder pays is not known, because no ",
        ),
        (
            [ROWS[0], row("large", 0.0001, 0.12, 0.1, price=0.002)],
            [pair("warm", 0.01)],
            "large pays over small, the cheapest: on items that train 0.1200 against 0.1000 (p 0.01 after Holm), at "
            "0.1 times the seconds per content, for 0.002 per content.",
        ),
        (
            [row("huge", 0.04, 0.13, 0.2), *ROWS],
            [pair("cold", 0.01), pair("cold", 0.01, "huge", "small"), pair("cold", 0.9, "huge", "large")],
            "large pays over small",
        ),
        (
            [row("huge", 0.04, 0.13, 0.2), *ROWS],
            [pair("cold", 0.01), pair("cold", 0.01, "huge", "small"), pair("cold", 0.01, "huge", "large")],
            "huge pays over small, the cheapest: on hidden items 0.2000 against 0.0500",
        ),
        (
            [row("huge", 0.04, 0.11, 0.2), *ROWS],
            [
                pair("cold", 0.01),
                pair("cold", 0.01, "huge", "small"),
                pair("warm", 0.01, "huge", "large"),
                pair("cold", 0.01, "huge", "large"),
            ],
            "large pays over small",
        ),
        (ROWS, [pair("warm", None), pair("cold", None)], "small pays: it is the cheapest"),
    ],
    ids=[
        "by chance",
        "on hidden items",
        "behind elsewhere",
        "imported",
        "unknown time",
        "a price",
        "dearer and no better",
        "dearer and better",
        "dearer, better and worse",
        "a single user",
    ],
)
def test_the_verdict_names_the_encoder_that_pays(
    rows: list[EncoderRow], pairs: list[EncoderPair], sentence: str
) -> None:
    assert encoders.verdict(rows, pairs).startswith(sentence)


def published(store: Store) -> TableVersion:
    """A comparison of two encoders, as the command publishes it."""
    paired = [pair("warm", 0.2), pair("cold", 0.003)]
    records = [
        each.model_dump() | {"pairs": [p.model_dump(exclude={"encoder"}) for p in paired if p.encoder == each.encoder]}
        for each in ROWS
    ]
    table = pa.Table.from_pylist(records, schema=ENCODER_COMPARISON)
    config = {"seeds": [0], "cm3": CM3Config().model_dump(mode="json")}
    return publish(store, encoders.TABLE, table, dataset="shop", config=config, stage="compare-encoders")


def rendered(store: Store, version: TableVersion | None, tmp_path: Path) -> HtmlPage:
    output = report.run(
        store=store, tables={}, output=tmp_path / "report.html", config=ReportConfig(), encoder_comparison=version
    )
    return HtmlPage(output.read_text(encoding="utf-8"))


def test_the_last_comparison_is_a_section_and_no_table_of_the_run(store: Store, tmp_path: Path) -> None:
    assert encoders.latest(store, "shop") is None
    without = rendered(store, None, tmp_path)
    version = published(store)
    page = rendered(store, encoders.latest(store, "shop"), tmp_path)
    assert version == encoders.latest(store, "shop")
    assert encoders.verdict(ROWS, [pair("warm", 0.2), pair("cold", 0.003)]) in page.text
    for figure in ("NDCG@20, warm", "0.1200 ± –", "0.0900 ± 0.0100", "4.0", "0.003"):
        assert figure in page.text
        assert figure not in without.text
    sections = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert "#encoders" in sections
    assert "#lineage" not in sections, "the run published no table"
    assert ("a", {"href": "#encoders"}) not in without.tags


def test_a_damaged_comparison_is_said_and_costs_no_report(store: Store, tmp_path: Path) -> None:
    version = published(store)
    file = next(Path(version.path).iterdir())
    file.write_bytes(file.read_bytes()[:-20])
    assert "The comparison of encoders cannot be read" in rendered(store, version, tmp_path).text
    Path(version.path).with_suffix(".json").write_bytes(b"{")
    assert encoders.latest(store, "shop") is None
