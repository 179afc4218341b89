"""Today's schemas and code read what each release wrote: the files under `tests/golden`, made by its `make`."""

import re
from collections.abc import Mapping
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from pipeline.store import Store
from schemas import tables
from schemas.lineage import CODE_VERSION, TableVersion
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden"
RELEASES = sorted(path.name for path in GOLDEN.iterdir() if (path / "demo").is_dir())
FIXED: Mapping[str, pa.Schema] = {
    name.lower(): schema for name, schema in vars(tables).items() if isinstance(schema, pa.Schema)
}
"""Table → today's schema, for tables whose schema has no parameters."""


def kept() -> list[tuple[str, str]]:
    """(release, table) of everything kept."""
    return [(release, table) for release in RELEASES for table in Store(GOLDEN / release).tables("demo")]


def latest(release: str, table: str) -> tuple[Store, TableVersion]:
    store = Store(GOLDEN / release)
    return store, store.latest("demo", table)


def schema_now(table: str, before: pa.Schema) -> pa.Schema:
    """Today's schema of a table that was written with `before`, for the same width of vectors and features."""
    if table == "similarity":
        names = (name.removeprefix("similarity_") for name in before.names if name.startswith("similarity_"))
        return tables.similarity(tuple(names))
    shaped = {
        "embeddings/items": tables.item_embeddings,
        "embeddings/users": tables.user_embeddings,
    } | ({table: tables.features} if table.startswith("features/") else {})
    if table in shaped:
        return shaped[table](before.field("embedding").type.list_size)
    return FIXED[table]


def breaks(before: pa.Schema, now: pa.Schema) -> list[str]:
    """One sentence for each change that would break a reader of `before`."""
    problems = []
    for field in before:
        if field.name not in now.names:
            problems.append(f"column {field.name!r} is gone")
        elif not field.equals(now.field(field.name)):
            problems.append(
                f"column {field.name!r} was {describe_field(field)}, now {describe_field(now.field(field.name))}"
            )
    added = [field for field in now if field.name not in before.names]
    return problems + [f"new column {field.name!r} is not nullable" for field in added if not field.nullable]


def describe_field(field: pa.Field) -> str:
    return f"{field.type}{'' if field.nullable else ' not null'}"


@pytest.mark.parametrize(("release", "table"), kept())
def test_a_table_is_as_a_release_promised_it_or_the_schema_version_is_higher(release: str, table: str) -> None:
    version = latest(release, table)[1]
    before = pq.read_schema(Path(version.path) / "part-00000.parquet")
    if int(before.metadata[b"cm3.schema_version"]) == tables.SCHEMA_VERSION:
        assert not breaks(before, schema_now(table, before)), "raise SCHEMA_VERSION in schemas/tables.py"
    else:
        entry = re.search(rf"schema.* version {tables.SCHEMA_VERSION}\b", (ROOT / "CHANGELOG.md").read_text("utf-8"))
        assert entry, "CHANGELOG.md says what a higher schema version means to readers"


@pytest.mark.parametrize(("release", "table"), kept())
def test_every_reader_reads_what_a_release_wrote(release: str, table: str) -> None:
    path = Path(latest(release, table)[1].path)
    expected = pl.read_parquet(path).to_dicts()
    assert expected
    assert duckdb.sql(f"from '{path}/*.parquet'").pl().to_dicts() == expected
    assert pyarrow.dataset.dataset(path).to_table().to_pylist() == expected
    assert list(pd.read_parquet(path).columns) == list(expected[0])


@pytest.mark.parametrize(("release", "table"), kept())
def test_todays_store_finds_verifies_and_reads_what_a_release_published(release: str, table: str) -> None:
    store, version = latest(release, table)
    store.verify(version)
    assert version.lineage["cm3.schema"] == table
    assert version.lineage["cm3.code_version"] == release
    assert len(store.read(version)) == version.rows == sum(len(batch) for batch in store.batches(version, rows=2))


def test_the_last_release_kept_every_table_of_a_run() -> None:
    assert CODE_VERSION in RELEASES, "python -m tests.golden.make"
    names = set(Store(GOLDEN / CODE_VERSION).tables("demo"))
    assert names >= {*FIXED, "similarity", "embeddings/items", "embeddings/users", "features/sentence"}


@pytest.mark.parametrize(
    ("now", "sentence"),
    [
        ([("id", pa.string(), False), ("name", pa.string(), True)], "'price' is gone"),
        ([("id", pa.string(), False), ("price", pa.float32(), True)], "'price' was double, now float"),
        ([("id", pa.string(), True), ("price", pa.float64(), True)], "'id' was string not null, now string"),
        ([("id", pa.string(), False), ("price", pa.float64(), True), ("x", pa.int8(), False)], "'x' is not nullable"),
    ],
    ids=["renamed", "retyped", "may be null", "new and required"],
)
def test_a_change_that_would_break_readers_is_seen(now: list[tuple[str, pa.DataType, bool]], sentence: str) -> None:
    before = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("price", pa.float64())])
    problems = breaks(before, pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable in now]))
    assert any(sentence in problem for problem in problems), problems


def test_a_new_nullable_column_breaks_nobody() -> None:
    before = pa.schema([pa.field("id", pa.string(), nullable=False)])
    assert not breaks(before, before.insert(0, pa.field("colour", pa.string())))
