"""The runs of a data set in a row: the figures are those of the published tables, whatever happened in between."""

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows import extract, job, re_extract
from pipeline.history import read
from pipeline.registry import garbage
from pipeline.report import index
from pipeline.store import Store
from schemas.errors import ContractError, UserError
from schemas.extract import PARAMETERS as EXTRACT
from schemas.history import Entry
from schemas.re_extract import ReExtractCatalogue, RetrainThreshold
from schemas.run import CatalogueParameters, RunRecord
from tests.support import drawn_shop
from tests.support.command_line import cm3

pytestmark = pytest.mark.slow
NEVER = RetrainThreshold(items=1, interactions=1)


def edges(record: RunRecord, items: set[str]) -> set[tuple[str, str]]:
    (path,) = (stage.path for stage in record.stages if stage.table == "similarity")
    rows = pl.read_parquet(path).select("item_id", "neighbor_id").rows()
    return {row for row in rows if row[0] in items}


def figure(record: RunRecord, model: str, split: str, metric: str) -> float:
    (path,) = (stage.path for stage in record.stages if stage.table == "metrics")
    wanted = {"model": model, "split": split, "metric": metric, "k": 20}
    value = pl.read_parquet(path).filter(**wanted)["value"].mean()
    assert isinstance(value, float)
    return value


def test_every_run_is_a_row_whose_figures_are_those_of_its_tables(tmp_path: Path) -> None:
    shop, store = tmp_path / "shop", Store(tmp_path / "store")
    drawn_shop.write(shop)
    fields: dict[str, Any] = drawn_shop.parameters(shop, tmp_path / "store")
    trained = job.run(parameters=CatalogueParameters(**fields, trainer=drawn_shop.QUICK))
    (only,) = read(store, "shop", 20)
    assert (only.state, only.neighbor_overlap) == ("trained", None)
    assert f'<a href="{index.HISTORY}">' in Path(trained.report).read_text()
    assert f"{only.ndcg:.4f}" in beside_the_reports(store)

    lines = (shop / "items.jsonl").read_text().splitlines()
    (shop / "items.jsonl").write_text("\n".join(lines[:190]))
    nightly = ReExtractCatalogue(**fields, trainer=drawn_shop.QUICK)
    night = re_extract.run(parameters=nightly, retrain=NEVER)
    assert not night.trained
    (shop / "items.jsonl").write_text("\n".join(lines[:80]))
    with pytest.raises(ContractError):
        re_extract.run(parameters=nightly, retrain=NEVER)
    assert "items_lost of items is 57.9%" in beside_the_reports(store)
    (shop / "items.jsonl").write_text("\n".join(lines))
    extracted = extract.run(parameters=EXTRACT["catalogue"](**fields))
    again = re_extract.run(parameters=nightly, retrain=RetrainThreshold(items=0, interactions=0))

    runs = read(store, "shop", 20)
    assert [run.state for run in runs] == ["trained", "embedded", "stopped", "extracted", "embedded"]
    assert runs[2].note.startswith("after ingest: items_lost of items is 57.9%")
    assert [run.items for run in runs] == [200, 190, None, 200, 200]
    for run, record in zip([runs[0], runs[1], runs[4]], (trained, night, again), strict=True):
        assert run.ndcg == figure(record, "cm3", "test", "ndcg")
        assert run.cold_recall == figure(record, "item-weights", "cold", "recall")
        assert (run.seconds, run.coverage, run.interactions) == (record.seconds, {"sentence": 1.0}, 1200)
    kept = {f"i{n:03d}" for n in range(190)}
    ours, theirs = edges(trained, kept), edges(night, kept)
    assert runs[1].neighbor_overlap == len(ours & theirs) / len(ours | theirs) < 1
    assert runs[3].neighbor_overlap == runs[1].neighbor_overlap
    assert (runs[3].ndcg, runs[3].note) == (None, "")
    assert [run.encoded for run in runs] == [200, 0, 0, 0, 0]
    check_what_is_shown(store, runs)

    garbage.remove(store, [v for t in store.tables("shop") for v in store.versions("shop", t)])
    store.put(f"shop/_runs/{extracted.started}.json", b'{"dataset": "sh')
    store.put(f"shop/_refused/{runs[2].started}.json", b"")
    assert read(store, "shop", 20) == [runs[0], runs[1], runs[4]], "damaged records cost only themselves"
    assert read(store, "shop", 1) == [runs[4]]


def beside_the_reports(store: Store) -> str:
    """The page in the store, to which the reports link."""
    return (Path(store.root) / "shop" / index.REPORTS / index.HISTORY).read_text()


def check_what_is_shown(store: Store, runs: list[Entry]) -> None:
    """The command, for a machine and for a person, and the page have the same figures."""
    document = json.loads(cm3("history", "shop", "--json", store=store.uri).stdout)
    assert [Entry.model_validate(row) for row in reversed(document)] == runs
    shown = cm3("history", "shop", store=store.uri).stdout
    status, _, page = index.respond(store, "/shop/history")
    assert status == 200
    for text in (shown, page.decode()):
        assert f"{runs[0].ndcg:.4f}" in text
        assert "items_lost of items is 57.9%" in text
    assert page.decode().count("<svg") == 7, "no chart of money, which no run cost"
    assert 'href="/shop/history"' in index.respond(store, "/shop")[2].decode()
    assert index.HISTORY not in {f"{report['name']}.html" for report in index.reports(store, "shop")}
    assert index.respond(store, f"/shop/report/{index.HISTORY}") == (status, index.HTML, page), "where reports link to"
    lasting = beside_the_reports(store)
    assert charts(lasting) == charts(page.decode())
    assert re.findall('<a [^>]*href="([^"]*)"', lasting) == ["#main"], "it lies alone"
    assert str(store.root) not in lasting, "nothing absolute is kept in a store, which may be moved"


def charts(page: str) -> list[str]:
    return re.findall("<(?:svg|tbody|ul).*?</(?:svg|tbody|ul)>", page, re.DOTALL)


def test_a_data_set_without_a_run_is_told_in_a_sentence(store: Store) -> None:
    with pytest.raises(UserError, match=r"No record of a run of 'shop'.*none yet; `cm3 run demo` makes one"):
        read(store, "shop", 20)
    with pytest.raises(UserError, match="is no name in a store"):
        read(store, "*", 20)
