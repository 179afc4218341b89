"""Items that seem to be one product listed twice."""

import numpy as np

from pipeline.similarity.duplicates import duplicates
from pipeline.store import Store
from schemas.similarity import SimilarityConfig
from tests.pipeline.similarity.conftest import Publish
from tests.support.similarity_graphs import build, random_vectors


def test_same_content_and_near_duplicates_are_reported_once_each(store: Store, publish: Publish) -> None:
    vectors = dict(random_vectors(1, 40))
    base = vectors["item-0003"]
    assert base is not None
    vectors |= {f"copy-{i:02d}": base for i in range(15)}  # more than k
    vectors["close"] = base + np.float32(0.01)
    features = {"text": publish("text", vectors)}
    graph = build(store, features, SimilarityConfig(k=3, near_duplicate=0.999))
    pairs = duplicates(store=store, graph=graph, features=features).to_pylist()
    same = {(r["item_id"], r["duplicate_id"]) for r in pairs if r["kind"] == "same content"}
    assert same == {("copy-00", f"copy-{i:02d}") for i in range(1, 15)} | {("copy-00", "item-0003")}
    near = [r for r in pairs if r["kind"] == "near"]
    assert near
    assert all("close" in (r["item_id"], r["duplicate_id"]) for r in near)
