"""Above the threshold clusters prune the search; recall is measured, recorded, and meets the target."""

import json

import pytest

from pipeline.similarity.search import Channel
from pipeline.store import Store
from schemas.similarity import SimilarityConfig
from tests.pipeline.similarity.conftest import Publish
from tests.support.similarity_graphs import as_edges, brute_force, build, clustered, random_vectors


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.similarity.search.BLOCK", 64)
    monkeypatch.setattr("pipeline.similarity.partition.ITEMS_PER_CLUSTER", 25)


def test_recall_meets_the_target_with_a_fraction_of_the_comparisons(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []
    plain = Channel._above
    monkeypatch.setattr(Channel, "_above", lambda self, x, cut: (compared.append(x.numel()), plain(self, x, cut))[1])
    image, text = clustered(0), clustered(1)
    for name in list(image)[::7]:
        image[name] = None
    features = {"image": publish("image", image), "text": publish("text", text)}
    config = SimilarityConfig(k=5, approximate_above=100, recall_target=0.95, recall_sample=40)
    version = build(store, features, config)
    pruned = sum(compared)
    measured = json.loads(version.lineage["cm3.measured"])
    assert not measured["exact"]
    exact = build(store, features, config.model_copy(update={"approximate_above": 10**6}))
    assert pruned < 0.3 * (sum(compared) - pruned)
    truth, edges = as_edges(store.read(exact)), as_edges(store.read(version))
    hit = len(set(truth) & set(edges)) / len(truth)
    assert hit > 0.93
    assert set(measured["recall"]) == {"image", "text", "fused"}
    assert min(measured["recall"].values()) > 0.92
    assert measured["compared"] < 0.5 * measured["clusters"]
    same = set(truth) & set(edges)
    assert all(truth[edge][1] == edges[edge][1] for edge in same)


def test_data_without_clusters_is_searched_whole(store: Store, publish: Publish) -> None:
    vectors = random_vectors(0, 300)
    config = SimilarityConfig(k=5, approximate_above=100, recall_target=1.0)
    version = build(store, {"text": publish("text", vectors)}, config)
    measured = json.loads(version.lineage["cm3.measured"])
    assert measured["exact"]
    assert measured["recall"] == {"text": 1.0}
    assert as_edges(store.read(version)) == brute_force({"text": vectors}, {"text": 1.0}, 5)
