"""The report of a real run whose texts mean harm, made once for the whole folder; and a server of a store's pages."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline import report
from pipeline.store import Store
from schemas.lineage import TableVersion
from schemas.report import ReportConfig
from schemas.run import RunSummary
from tests.support.hostile_run import made_hostile
from tests.support.html_page import HtmlPage
from tests.support.service import serving

Run = tuple[Store, Mapping[str, TableVersion]]
"""A store and the tables of a run. Versions carry their own paths: some lie in another store."""


def made_with(recommendations: TableVersion, **settings: object) -> TableVersion:
    """The same lists, whose lineage names other settings of the training."""
    config = json.loads(recommendations.lineage["cm3.config"]) | settings
    return recommendations.model_copy(
        update={"lineage": dict(recommendations.lineage) | {"cm3.config": json.dumps(config)}}
    )


@pytest.fixture(scope="session")
def small_run(finished: tuple[Store, RunSummary]) -> Run:
    """The shared run of the small demo; its store is only read."""
    store, summary = finished
    return store, {stage.table: store.get(summary.dataset, stage.table, stage.version) for stage in summary.stages}


@pytest.fixture(scope="session")
def hostile_run(small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run with texts that mean harm, which lie in a store of their own."""
    store = Store(tmp_path_factory.mktemp("hostile"))
    return store, made_hostile(*small_run, store)


@pytest.fixture(scope="session")
def report_file(hostile_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the hostile run."""
    store, tables = hostile_run
    output = tmp_path_factory.mktemp("html") / "new folder" / "report.html"
    return report.run(store=store, tables=tables, output=output, config=ReportConfig(thumbnail=64))


@pytest.fixture(scope="session")
def html(report_file: Path) -> str:
    return report_file.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def page(html: str) -> HtmlPage:
    return HtmlPage(html)


@pytest.fixture(scope="session")
def data(page: HtmlPage) -> dict[str, Any]:
    """What the report's script reads."""
    loaded: dict[str, Any] = json.loads(page.scripts[0])
    return loaded


@pytest.fixture
def client(store: Store) -> Iterator[httpx.Client]:
    """Asks the pages of this test's store over HTTP."""
    with serving(store) as service:
        yield service.client
