"""Item rows come back from disk as they were written, those that are asked for."""

from pipeline.ingest import spool
from schemas.tables import ITEMS


def test_chosen_rows_come_back_in_order_whatever_the_batches(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(spool, "ROWS", 3)
    empty = dict.fromkeys(ITEMS.names)
    rows = [empty | {"item_id": f"i{n}", "title": f"Thing {n}", "categories": ["A"]} for n in range(8)]
    assert spool.write(tmp_path / "items.parquet", iter(rows)) == {row["item_id"] for row in rows}
    tables = list(spool.read(tmp_path / "items.parquet", {"i1", "i6", "i7", "absent"}))
    assert all(table.schema == ITEMS for table in tables)
    assert [row for table in tables for row in table.to_pylist()] == [rows[1], rows[6], rows[7]]


def test_no_rows_are_no_ids(tmp_path) -> None:
    assert spool.write(tmp_path / "items.parquet", iter([])) == set()
    assert sum(len(table) for table in spool.read(tmp_path / "items.parquet", set())) == 0
