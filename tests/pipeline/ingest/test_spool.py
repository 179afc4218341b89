"""Item rows come back from disk as they were written, with their interactions."""

from pipeline.ingest import spool
from schemas.tables import ITEMS


def test_every_row_comes_back_in_order_with_its_count_whatever_the_batches(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(spool, "ROWS", 3)
    empty = dict.fromkeys(ITEMS.names)
    rows = [empty | {"item_id": f"i{n}", "title": f"Thing {n}", "categories": ["A"]} for n in range(8)]
    assert spool.write(tmp_path / "items.parquet", iter(rows))[0] == {row["item_id"] for row in rows}
    for counts, expected in (({"i1": 2, "i7": 1, "absent": 9}, [0, 2, 0, 0, 0, 0, 0, 1]), (None, [None] * 8)):
        tables = list(spool.read(tmp_path / "items.parquet", counts))
        assert all(table.schema == ITEMS for table in tables)
        read = [row for table in tables for row in table.to_pylist()]
        assert read == [row | {"interactions": count} for row, count in zip(rows, expected, strict=True)]


def test_no_rows_are_no_ids(tmp_path) -> None:
    assert spool.write(tmp_path / "items.parquet", iter([]))[0] == set()
    assert sum(len(table) for table in spool.read(tmp_path / "items.parquet", {})) == 0
