"""One small run, published once for the whole folder."""

from collections.abc import Mapping
from pathlib import Path

import pytest

import pipeline.report
from pipeline.store import Store
from schemas.lineage import TableVersion
from schemas.report import ReportConfig
from tests.support.small_run import publish

Run = tuple[Store, Mapping[str, TableVersion]]


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Tables whose first titles, brands, descriptions, categories, captions and examples mean harm."""
    store = Store(tmp_path_factory.mktemp("report") / "store")
    return store, publish(store, items=60, users=40, hostile=True)


@pytest.fixture(scope="session")
def report(hostile_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of that run."""
    store, tables = hostile_run
    output = tmp_path_factory.mktemp("html") / "new folder" / "report.html"
    return pipeline.report.run(store=store, tables=tables, output=output, config=ReportConfig(thumbnail=64))
