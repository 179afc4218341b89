"""Weights learned from what users choose together."""

import json

import pytest

from pipeline.store import Store
from schemas.errors import UserError
from schemas.similarity import SimilarityConfig, Weighting
from tests.pipeline.similarity.conftest import Publish
from tests.support.similarity_graphs import build, planted, publish_choices, random_vectors


def test_learned_weights_favour_what_users_follow_and_are_recorded(store: Store, publish: Publish) -> None:
    text, image, rows = planted(1)
    features = {"text": publish("text", text), "image": publish("image", image)}
    config = SimilarityConfig(k=5, weighting=Weighting.LEARNED)
    graph = build(store, features, config, interactions=publish_choices(store, rows))
    weights = json.loads(graph.lineage["cm3.measured"])["weights"]
    assert weights["text"] > 0.8
    assert sum(weights.values()) == pytest.approx(1, abs=1e-5)
    other = publish_choices(store, [*rows, ("new", "g0-0", "train")])
    assert build(store, features, config, interactions=other).version != graph.version


def test_test_interactions_teach_nothing(store: Store, publish: Publish) -> None:
    text, image, rows = planted(2)
    features = {"text": publish("text", text), "image": publish("image", image)}
    config = SimilarityConfig(k=5, weighting=Weighting.LEARNED)
    leak = [(f"t{n}", f"g{n % 10}-{n % 8}", "test") for n in range(80)]
    runs = [
        build(store, features, config, interactions=publish_choices(store, choice)) for choice in (rows, rows + leak)
    ]
    taught = [json.loads(version.lineage["cm3.measured"])["weights"] for version in runs]
    assert taught[0] == taught[1]


def test_learning_needs_interactions(store: Store, publish: Publish) -> None:
    features = {"text": publish("text", random_vectors(0, 10))}
    with pytest.raises(UserError, match="no interactions"):
        build(store, features, SimilarityConfig(weighting=Weighting.LEARNED))
