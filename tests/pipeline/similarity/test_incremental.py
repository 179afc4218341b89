"""An updated graph equals a rebuilt one, and takes less work."""

import json
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.similarity import incremental
from pipeline.similarity.approximate import Reach
from pipeline.store import Store
from schemas.similarity import Edges, SimilarityConfig
from tests.pipeline.similarity.conftest import Publish
from tests.support.similarity_graphs import as_edges, brute_force, build, clustered, random_vectors

WEIGHTS = {"image": 0.2, "text": 0.8}


def change(seed: int, image: dict, text: dict, share: float) -> tuple[dict, dict]:
    """Some items added (among them twins of old ones), some changed, some without a feature, some removed."""
    rng = np.random.default_rng(seed)
    image, text = dict(image), dict(text)
    names = sorted(text)
    for name in rng.choice(names, max(int(len(names) * share), 1), replace=False):
        fate = rng.integers(5)
        if fate == 0:
            text.pop(name)
            image.pop(name, None)
        elif fate == 1:
            text[name] = (rng.integers(-3, 4, 8) + 0.5).astype(np.float32)
        elif fate == 2:
            image[name] = None
        elif fate == 3:
            text[f"a-twin-of-{name}"] = text[name]
            image[f"a-twin-of-{name}"] = image.get(name)
        else:
            text[f"new-{name}"] = (rng.integers(-3, 4, 8) + 0.5).astype(np.float32)
    return image, text


@pytest.mark.parametrize("edges", list(Edges))
@pytest.mark.parametrize("seed", range(6))
def test_an_update_equals_a_rebuild(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch, seed: int, edges: Edges
) -> None:
    monkeypatch.setattr("pipeline.similarity.search.BLOCK", 32)
    config = SimilarityConfig(k=4, weights=WEIGHTS if seed % 2 else {"image": 0, "text": 1}, edges=edges)
    image = random_vectors(seed, 200, absent=0.3, repeated=0.3)
    text = random_vectors(seed + 50, 200, absent=0.1, repeated=0.3)
    features = {"image": publish("image", image), "text": publish("text", text)}
    build(store, features, config)
    image, text = change(seed, image, text, 0.03)
    features = {"image": publish("image", image), "text": publish("text", text)}
    updated = build(store, features, config)
    measured = json.loads(updated.lineage["cm3.measured"])
    if edges is Edges.MUTUAL:
        assert measured["updated"] is None
    else:
        assert measured["updated"] is not None
        assert 0 < measured["searched"] <= 150
    if edges is Edges.DIRECTED and seed % 2:
        assert as_edges(store.read(updated)) == brute_force({"image": image, "text": text}, WEIGHTS, 4)
    monkeypatch.setattr("pipeline.similarity.incremental.find_base", lambda *_: None)
    empty = Store(f"{store.uri}-without-graphs")  # versions of features carry their own paths
    rebuilt = build(empty, features, config)
    assert store.read(updated).equals(empty.read(rebuilt))


def test_nothing_is_searched_where_only_the_version_changed(store: Store, publish: Publish) -> None:
    vectors = random_vectors(0, 80)
    config = SimilarityConfig(k=4)
    first = build(store, {"text": publish("text", vectors)}, config)
    second = build(store, {"text": publish("text", vectors, encoder="same vectors")}, config)
    measured = json.loads(second.lineage["cm3.measured"])
    assert (measured["searched"], measured["updated"]) == (0, first.version)
    assert store.read(second).equals(store.read(first))


def test_another_configuration_is_no_base(store: Store, publish: Publish) -> None:
    vectors = random_vectors(0, 80)
    build(store, {"text": publish("text", vectors)}, SimilarityConfig(k=4))
    vectors["new"] = np.ones(8, np.float32)
    version = build(store, {"text": publish("text", vectors)}, SimilarityConfig(k=5))
    assert json.loads(version.lineage["cm3.measured"])["updated"] is None
    assert as_edges(store.read(version)) == brute_force({"text": vectors}, {"text": 1.0}, 5)


PRUNED = SimilarityConfig(k=4, weights=WEIGHTS, approximate_above=100, recall_target=0.9, recall_sample=100)


@pytest.fixture
def _small_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.similarity.search.BLOCK", 32)
    monkeypatch.setattr("pipeline.similarity.partition.ITEMS_PER_CLUSTER", 20)


def with_twins(seed: int, groups: int = 30, lacking: float = 0.1) -> tuple[dict[str, Any], dict[str, Any]]:
    """Images and texts in clusters: some images absent, some copies of another item's, some items copies in both."""
    rng = np.random.default_rng(seed)
    image, text = clustered(seed, groups), clustered(seed + 50, groups)
    names = sorted(image)
    for name, other in rng.choice(names, (len(names) // 50, 2), replace=False):
        image[name] = image[other]
    for name, other in rng.choice(names, (len(names) // 50, 2), replace=False):
        image[name], text[name] = image[other], text[other]
    for name in rng.choice(names, int(len(names) * lacking), replace=False):
        image[name] = None
    return image, text


@pytest.mark.usefixtures("_small_clusters")
@pytest.mark.parametrize("seed", range(5))
def test_an_approximate_update_equals_a_search_of_every_item_in_the_same_clusters(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    image, text = with_twins(seed)
    first = build(store, {"image": publish("image", image), "text": publish("text", text)}, PRUNED)
    image, text = change(seed, image, text, 0.02)
    features = {"image": publish("image", image), "text": publish("text", text)}

    def of_every_item(_: Store, *given: Any) -> incremental.Base | None:
        base = find(store, *given)
        every = pa.array(sorted({*image, *text}))
        return base and replace(base, changed=every, searched=every)

    updated = build(store, features, PRUNED)
    measured = json.loads(updated.lineage["cm3.measured"])
    assert measured["updated"] == first.version
    assert 0 < measured["searched"] < len(text) / 2
    assert measured["recall"]["text"] > 0.85
    find = incremental.find_base
    monkeypatch.setattr(incremental, "find_base", of_every_item)
    empty = Store(f"{store.uri}-without-graphs")
    anew = build(empty, features, PRUNED)
    assert json.loads(anew.lineage["cm3.measured"])["searched"] == len({*image, *text})
    assert store.read(updated).equals(empty.read(anew))


@pytest.mark.usefixtures("_small_clusters")
def test_clusters_that_the_catalogue_has_outgrown_are_trained_anew(store: Store, publish: Publish) -> None:
    text = clustered(0, 20)
    config = PRUNED.model_copy(update={"weights": {}})
    build(store, {"text": publish("text", text)}, config)
    text |= {f"new-{name}": vector for name, vector in list(clustered(1, 20).items())[: len(text) // 10]}
    grown = build(store, {"text": publish("text", text)}, config)
    text |= {f"newer-{name}": vector for name, vector in list(clustered(2, 20).items())[: len(text) // 8]}
    outgrown = build(store, {"text": publish("text", text)}, config)
    measured = [json.loads(version.lineage["cm3.measured"]) for version in (grown, outgrown)]
    assert [figures["updated"] is None for figures in measured] == [False, True]
    assert measured[0]["clusters"] < measured[1]["clusters"]


@pytest.mark.usefixtures("_small_clusters")
@pytest.mark.parametrize("lost", ["clusters", "direction", "recall", "recall of the newest alone"])
def test_an_approximate_graph_that_cannot_be_updated_is_rebuilt(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """The kept clusters were deleted; edges were published in both directions; they find too little by now."""
    text = clustered(0, 20)
    config = SimilarityConfig(k=4, approximate_above=100, recall_target=0.9, recall_sample=100)
    config = config.model_copy(update={"edges": Edges.SYMMETRIC}) if lost == "direction" else config
    build(store, {"text": publish("text", text)}, config)
    if lost == "clusters":
        shutil.rmtree(f"{store.root}/_cache/similarity")
    if lost == "recall":
        monkeypatch.setattr(incremental, "RECALL_LOST", -0.2)
    if lost == "recall of the newest alone":
        monkeypatch.setattr(Reach, "recall", lambda self, edges: [0.5 for _ in edges])
        text["second"] = -np.ones(8, np.float32)
        second = json.loads(build(store, {"text": publish("text", text)}, config).lineage["cm3.measured"])
        assert second["updated"] is not None
    text["new"] = np.ones(8, np.float32)
    version = build(store, {"text": publish("text", text)}, config)
    measured = json.loads(version.lineage["cm3.measured"])
    assert (measured["exact"], measured["updated"], measured["searched"]) == (False, None, len(text))


@pytest.mark.usefixtures("_small_clusters")
def test_a_feature_by_which_nothing_could_be_found_does_not_stop_an_update(store: Store, publish: Publish) -> None:
    text = clustered(0, 20)
    image = dict.fromkeys(text) | {next(iter(text)): np.ones(8, np.float32)}
    first = build(store, {"image": publish("image", image), "text": publish("text", text)}, PRUNED)
    text["new"], image["new"] = np.ones(8, np.float32), None
    second = build(store, {"image": publish("image", image), "text": publish("text", text)}, PRUNED)
    measured = json.loads(second.lineage["cm3.measured"])
    assert (measured["exact"], measured["updated"], measured["recall"]["image"]) == (False, first.version, 1.0)
