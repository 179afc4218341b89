"""An updated graph equals a rebuilt one, and takes less work."""

import json

import numpy as np
import pytest

from pipeline.store import Store
from schemas.similarity import Edges, SimilarityConfig
from tests.pipeline.similarity.conftest import Publish
from tests.support.similarity_graphs import as_edges, brute_force, build, random_vectors

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
