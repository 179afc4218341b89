"""Rows grouped by a number, in mapped files."""

from pathlib import Path

import numpy as np

from pipeline.serving import grouped
from pipeline.serving.grouped import Grouped

PAIR = np.dtype([("item", "<i4"), ("weight", "<f4")])


def batch(rows: list[tuple[int, int, float]]) -> grouped.Batch:
    """(group, item, weight) as a batch."""
    return np.array([row[0] for row in rows], np.int64), np.array([row[1:] for row in rows], PAIR)


def test_rows_in_any_order_over_several_batches_come_back_by_group_in_the_order_written(tmp_path: Path) -> None:
    rows = ([(2, 5, 0.5), (0, 1, 0.1), (2, 4, 0.4)], [], [(2, 9, 0.9), (0, 7, 0.7), (4, 0, 0.0)])
    batches = [batch(some) for some in rows]
    grouped.write(tmp_path, "pairs", 5, PAIR, lambda: batches)
    pairs = Grouped(tmp_path, "pairs")
    assert [pairs[group]["item"].tolist() for group in range(5)] == [[1, 7], [], [5, 4, 9], [], [0]]
    assert pairs[2]["weight"].tolist() == np.array([0.5, 0.4, 0.9], np.float32).tolist()


def test_a_table_without_rows_has_empty_groups(tmp_path: Path) -> None:
    grouped.write(tmp_path, "pairs", 3, PAIR, lambda: [batch([])])
    assert [len(Grouped(tmp_path, "pairs")[group]) for group in range(3)] == [0, 0, 0]
