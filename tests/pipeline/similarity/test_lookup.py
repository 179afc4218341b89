"""The look-up of one item's neighbours."""

import pytest

from pipeline.similarity.lookup import similar
from pipeline.store import Store
from schemas.errors import UserError
from schemas.similarity import SimilarityConfig
from tests.pipeline.similarity.conftest import Publish
from tests.support.similarity_graphs import build, random_vectors


def test_similar_gives_an_items_nearest_by_rank(store: Store, publish: Publish) -> None:
    features = {"text": publish("text", random_vectors(3, 50)), "image": publish("image", random_vectors(4, 50))}
    graph = build(store, features, SimilarityConfig(k=6))
    expected = [row for row in store.read(graph).to_pylist() if row["item_id"] == "item-0007"][:4]
    assert similar(store, "shop", "item-0007", 4).to_pylist() == expected
    with pytest.raises(UserError, match="item-9999"):
        similar(store, "shop", "item-9999", 4)
    with pytest.raises(UserError, match="nowhere"):
        similar(store, "nowhere", "item-0007", 4)
