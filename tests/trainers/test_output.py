"""What a training writes: whole tables, and one that is made in parts."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from trainers import output


@pytest.mark.parametrize("rows", [1, 7, 1 << 20])
def test_item_weights_are_the_same_rows_however_many_are_made_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(output, "ROWS", rows)
    weights = sp.csr_matrix(np.array([[0, 0.5, 0], [0.25, 0, 0], [0.25, 0.75, 0]], np.float32))
    tables = {"item_weights": output.item_weights_tables(weights, ["a", "b", "c"])}
    table = pl.read_parquet(output.write_tables(tables, tmp_path)["item_weights"])
    assert table.rows() == [("a", "b", 0.25), ("a", "c", 0.25), ("b", "c", 0.75), ("b", "a", 0.5)]


def test_no_weights_are_a_table_without_rows(tmp_path: Path) -> None:
    tables = {"item_weights": output.item_weights_tables(sp.csr_matrix((3, 3), dtype=np.float32), ["a", "b", "c"])}
    assert pl.read_parquet(output.write_tables(tables, tmp_path)["item_weights"]).rows() == []
