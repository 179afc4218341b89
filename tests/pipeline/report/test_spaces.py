"""Neighbours and places on the map, by every space."""

from typing import Any

import numpy as np
import polars
import pytest

from pipeline.report.spaces import nearest, project
from tests.pipeline.report.conftest import Run


def test_neighbours_are_those_of_a_brute_force_search(hostile_run: Run, data: dict[str, Any]) -> None:
    _, tables = hostile_run
    frame = polars.read_parquet(f"{tables['embeddings/items'].path}/*.parquet")
    trained = (
        frame["embedding"].to_numpy().astype(float)[:, : 64 * 4]
    )  # three modalities and the ids'; the rest is score
    vectors = dict(zip(frame["item_id"], trained, strict=True))
    space = data["spaces"][-1]
    assert space["title"] == "CM3"
    for place in (0, 17, 59):
        own = vectors[data["id"][place]]
        cosine = {i: own @ v / np.linalg.norm(own) / np.linalg.norm(v) for i, v in vectors.items()}
        best = sorted(set(cosine) - {data["id"][place]}, key=lambda item: -cosine[item])[:6]
        assert [data["id"][other] for other in space["near"][place]] == best
        assert space["cosine"][place] == [round(cosine[item] * 100) for item in best]


def test_fused_neighbours_are_the_published_ones_in_their_order(hostile_run: Run, data: dict[str, Any]) -> None:
    store, tables = hostile_run
    rows = store.read(tables["similarity"]).to_pylist()
    space = next(space for space in data["spaces"] if space["title"] == "Fused similarity")
    neighbors = [row["neighbor_id"] for row in rows if row["item_id"] == data["id"][3]]
    assert [data["id"][other] for other in space["near"][3]] == neighbors[:6]


def test_an_item_without_a_modality_has_no_neighbours_there(hostile_run: Run, data: dict[str, Any]) -> None:
    store, tables = hostile_run
    clip = next(space for space in data["spaces"] if space["title"] == "CLIP")
    images = store.read(tables["images"], ["item_id", "status"]).to_pylist()
    without = {row["item_id"] for row in images if row["status"] != "ok"}
    assert without
    for place, item in enumerate(data["id"]):
        assert bool(clip["near"][place]) == (item not in without)
        assert (clip["map"][place] is None) == (item in without)


def test_nearest_leaves_out_the_row_itself_and_copes_with_zero_vectors() -> None:
    places, cosine = nearest(np.array([[1, 0], [2, 0], [0, 1], [0, 0]], np.float32), k=9)
    assert places.shape == (4, 3)
    assert places[0, 0] == 1
    assert cosine[0, 0] == pytest.approx(1)
    assert all(row not in places[row] for row in range(4))
    assert np.isfinite(cosine).all()


def test_vectors_of_one_number_have_a_map() -> None:
    points = project(np.linspace(-1, 1, 12, dtype=np.float32)[:, None], seed=0)
    assert points.shape == (12, 2)
    assert points.min() >= 0
    assert points.max() <= 1000
