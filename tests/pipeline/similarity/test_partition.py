"""An item's clusters follow from its vectors and the centres alone."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.similarity import partition
from pipeline.similarity.layout import Layout, assemble
from pipeline.similarity.vectors import FeatureTable, Floats, Ints


def centres_of(count: int, width: int) -> Floats:
    drawn = np.random.default_rng(0).standard_normal((count, width)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def between(centres: Floats, items: int, share: float) -> tuple[Layout, Ints]:
    """Items that lie on the way from one centre to another, and which one they started from."""
    rng = np.random.default_rng(1)
    one = rng.integers(len(centres), size=items)
    other = (one + rng.integers(1, len(centres), items)) % len(centres)
    matrix = ((1 - share) * centres[one] + share * centres[other]).astype(np.float32)
    ids = pa.array([f"item-{number:05d}" for number in range(items)])
    return assemble({"text": FeatureTable(ids, matrix)}, {"text": 1.0}), one


@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 7, 64, 1999])
def test_the_same_item_has_the_same_clusters_wherever_its_row_lies(at_once: int) -> None:
    """Half-way between two centres the last bit of a product decides."""
    centres = centres_of(60, 383)
    layout, _ = between(centres, 2000, share=0.5)
    everyone = np.arange(len(layout))
    together = partition.nearest_clusters(layout, centres, everyone, 2)
    shuffled = np.random.default_rng(2).permutation(everyone)
    for start in range(0, min(len(layout), 200 * at_once), at_once):
        positions = shuffled[start : start + at_once]
        assert np.array_equal(partition.nearest_clusters(layout, centres, positions, 2), together[positions])


@pytest.mark.parametrize("width", [1, 3, 384, 8192])
def test_the_products_that_choose_clusters_are_those_of_whole_numbers(width: int) -> None:
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((2, 200, width)) * rng.random((2, 200, width)) ** 4
    rows, centres = (drawn / np.linalg.norm(drawn, axis=2, keepdims=True)).astype(np.float32)
    rows = partition.rounded(rows, partition.ROW_STEP)
    centres = partition.rounded(centres, partition.CENTRE_STEP)
    whole = (rows / partition.ROW_STEP).astype(np.int64) @ (centres / partition.CENTRE_STEP).astype(np.int64).T
    assert np.array_equal(rows @ centres.T, whole * float(partition.ROW_STEP * partition.CENTRE_STEP))


def test_rounding_moves_no_item_that_is_clearly_nearer_to_one_centre() -> None:
    centres = centres_of(100, 384)
    layout, one = between(centres, 1000, share=0.49)
    assert np.array_equal(partition.nearest_clusters(layout, centres, np.arange(1000), 2)[:, 0], one)
