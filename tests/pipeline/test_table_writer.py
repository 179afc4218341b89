"""Tables that fit their contract become part files; others are refused before anything is published."""

import pyarrow as pa
import pytest

from pipeline.store import Store
from schemas.lineage import Lineage

SCHEMA = pa.schema([pa.field("item_id", pa.string(), nullable=False), pa.field("size", pa.int64())])
LINEAGE = Lineage(dataset="shop", table="items", stage="test", stage_version=1, config={})


def rows(count: int) -> pa.Table:
    return pa.table({"item_id": [f"i{i}" for i in range(count)], "size": range(count)}, schema=SCHEMA)


def test_rows_that_break_the_contract_are_refused_before_publishing(store: Store) -> None:
    bad = pa.table({"item_id": ["i", None], "size": [1, 2]})
    with pytest.raises(ValueError, match="'item_id' is required"), store.writer(SCHEMA, LINEAGE) as writer:
        writer.write(bad)
    assert store.versions("shop", "items") == []


def test_an_empty_table_still_shows_its_columns(store: Store) -> None:
    with store.writer(SCHEMA, LINEAGE) as writer:
        pass
    assert store.read(writer.version).column_names == SCHEMA.names


def test_large_tables_become_several_parts_in_order(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.table_writer.PART_BYTES", 100)
    with store.writer(SCHEMA, LINEAGE) as writer:
        for start in range(0, 30, 10):
            writer.write(rows(30).slice(start, 10))
    assert len(writer.version.files) == 3
    assert store.read(writer.version).to_pylist() == rows(30).to_pylist()
    batches = list(store.batches(writer.version, rows=7))
    assert max(len(batch) for batch in batches) <= 7
    assert pa.concat_tables(batches).to_pylist() == rows(30).to_pylist()
