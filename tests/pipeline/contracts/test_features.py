"""Rules about features, on tables as the features stage publishes them."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pytest

from pipeline.contracts import features
from pipeline.features.columns import fixed_width_from
from pipeline.store import Store
from schemas import tables
from schemas.lineage import TableVersion
from tests.support.published import publish

Rows = Mapping[str, tuple[str | None, list[float] | None]]


def published(store: Store, rows: Rows, **lineage: str) -> dict[str, TableVersion]:
    contents, vectors = zip(*rows.values(), strict=True)
    missing = np.array([row is None for row in vectors])
    matrix = np.array([row or [0.0, 0.0] for row in vectors], np.float32)
    columns = [list(rows), contents, fixed_width_from(matrix, missing=missing), pa.nulls(len(rows), pa.string())]
    table = pa.table(columns, schema=tables.features(2))
    record = {"config": {"model": 1}, "inputs": {"rows": str(sorted(rows.items()))}} | lineage
    version = publish(store, "features/words", table, **record)
    return {"features/words": version}


def test_a_vector_that_turned_though_content_and_encoder_are_the_same_has_moved(store: Store) -> None:
    old: Rows = {"a": ("1", [1.0, 0.0]), "b": ("2", [0.0, 1.0]), "c": (None, None), "d": ("4", [1.0, 0.0])}
    new: Rows = {"d": ("4", [1.0, 0.0]), "c": ("3", [1.0, 0.0]), "b": ("2", [1.0, 1.0]), "a": ("9", [0.0, 1.0])}
    (moved,) = features.vectors_moved(store, published(store, new), published(store, old))
    assert (moved.figure, moved.examples) == (0.5, ("b",)), "a has another content, c had none"


def test_rounding_does_not_count_as_moved(store: Store) -> None:
    old, new = ({"a": ("1", [0.6, 0.8])}, {"a": ("1", [float(np.nextafter(np.float32(0.6), 1)), 0.8])})
    assert [m.figure for m in features.vectors_moved(store, published(store, new), published(store, old))] == [0.0]


def test_another_encoders_vectors_are_not_compared(store: Store) -> None:
    old = published(store, {"a": ("1", [1.0, 0.0])}, encoder="one")
    assert list(features.vectors_moved(store, published(store, {"a": ("1", [0.0, 1.0])}, encoder="two"), old)) == []


def test_lost_coverage_is_a_share_of_what_was_covered_before(store: Store) -> None:
    rows: dict[str, tuple[str | None, list[float] | None]] = {i: (i, [1.0, 0.0]) for i in "abcd"}
    now = published(store, rows | {"a": (None, None)})
    (lost,) = features.coverage_lost(store, now, published(store, rows))
    assert (lost.figure, lost.examples) == (pytest.approx(0.25), ("a",))
    assert [m.figure for m in features.coverage_lost(store, published(store, rows), now)] == [0.0]


def test_one_content_for_many_items_raises_the_share_of_duplicates(store: Store) -> None:
    old = published(store, {i: (i, [1.0, 0.0]) for i in "abcd"})
    now = published(store, {"a": ("x", [1.0, 0.0]), "b": ("y", [1.0, 0.0])} | {i: ("z", [0.0, 1.0]) for i in "cd"})
    (risen,) = features.duplicates_risen(store, now, old)
    assert (risen.figure, risen.examples) == (0.5, ("c", "d"))
