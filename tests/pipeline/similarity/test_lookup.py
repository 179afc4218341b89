"""The look-up of one item's neighbours."""

import pyarrow as pa
import pytest

from pipeline.similarity.lookup import similar, titles
from pipeline.store import Store
from schemas.errors import UserError
from schemas.similarity import SimilarityConfig
from schemas.tables import ITEMS
from tests.pipeline.similarity.conftest import Publish
from tests.support.published import publish as publish_table
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


def test_more_neighbours_than_the_graphs_are_refused_and_by_default_the_graphs_are_given(
    store: Store, publish: Publish
) -> None:
    features = {"text": publish("text", random_vectors(3, 50)), "image": publish("image", random_vectors(4, 50))}
    build(store, features, SimilarityConfig(k=6))
    with pytest.raises(
        UserError, match=r"holds the 6 nearest of each item, 7 were asked for.*--similarity '\{\"k\": 7\}'"
    ):
        similar(store, "shop", "item-0007", 7)
    assert similar(store, "shop", "item-0007")["rank"].to_pylist() == [1, 2, 3, 4, 5, 6]


def test_titles_are_those_of_the_items_table(store: Store) -> None:
    rows = [{"item_id": "a", "title": "Blue mug", "categories": []}, {"item_id": "b", "categories": []}]
    items = publish_table(store, "items", pa.Table.from_pylist(rows, schema=ITEMS))
    assert titles(store, items, ["a", "b", "c"]) == {"a": "Blue mug", "b": None}
