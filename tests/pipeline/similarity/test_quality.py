"""The graph's quality, measured feature by feature."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.similarity.quality import assess
from pipeline.store import Store
from schemas.similarity import SimilarityConfig
from tests.pipeline.similarity.conftest import Publish
from tests.support.similarity_graphs import build, planted, publish_choices

Measures = dict[tuple[str, str, str | None], float]


def measured(table: pa.Table) -> Measures:
    return {(row["measure"], row["feature"], row["other"]): row["value"] for row in table.to_pylist()}


def test_a_feature_that_users_follow_shows_lift_and_noise_does_not(store: Store, publish: Publish) -> None:
    text, image, rows = planted(0)
    features = {"text": publish("text", text), "image": publish("image", image)}
    graph = build(store, features, SimilarityConfig(k=5))
    measures = measured(assess(store=store, graph=graph, features=features, interactions=publish_choices(store, rows)))
    assert measures["share a user", "text", None] > 3 * measures["share a user by chance", "text", None]
    assert measures["lift", "text", None] > 2 * measures["lift", "image", None]
    assert measures["lift", "image", None] < 2
    assert measures["agreement", "text", "fused"] > measures["agreement", "image", "text"]


def test_coverage_degrees_and_components_of_a_known_graph(store: Store, publish: Publish) -> None:
    east, north = np.eye(8, dtype=np.float32)[:2]
    vectors = {"a": east, "b": east * 2, "c": east + 0.01 * north, "x": -north, "y": -north + 0.01 * east, "none": None}
    features = {"text": publish("text", vectors)}
    graph = build(store, features, SimilarityConfig(k=1))
    measures = measured(assess(store=store, graph=graph, features=features))
    assert measures["items", "text", None] == 5
    assert measures["coverage", "text", None] == pytest.approx(5 / 6)
    assert measures["degree", "text", None] == 1
    assert measures["isolated", "text", None] == 1
    assert measures["components", "text", None] == 2
    assert measures["largest component", "text", None] == pytest.approx(3 / 5)
    assert measures["largest hub", "text", None] == 2  # a is nearest to b and, before b by name, to c
    assert measures["never a neighbour", "text", None] == pytest.approx(1 / 5)
