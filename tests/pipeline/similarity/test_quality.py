"""The quality report, duplicates, learned weights and the look-up of one item."""

import json

import numpy as np
import pyarrow as pa
import pytest

from pipeline import similarity
from pipeline.similarity.duplicates import duplicates
from pipeline.similarity.lookup import similar
from pipeline.similarity.quality import assess
from pipeline.store import Store
from schemas import tables
from schemas.errors import UserError
from schemas.lineage import Lineage, TableVersion
from schemas.similarity import SimilarityConfig, Weighting
from tests.pipeline.similarity.conftest import Publish, random_vectors

Measures = dict[tuple[str, str, str | None], float]


def interactions(store: Store, rows: list[tuple[str, str, str]], dataset: str = "shop") -> TableVersion:
    lineage = Lineage(dataset=dataset, table="interactions", stage="test", stage_version=1, config={"rows": rows})
    users, items, splits = (list(column) for column in zip(*rows, strict=True))
    empty = [None] * len(rows)
    with store.writer(tables.INTERACTIONS, lineage) as writer:
        writer.write(
            pa.table(
                [users, items, pa.array(empty, pa.float32()), pa.array(empty, pa.timestamp("ms", "UTC")), splits],
                tables.INTERACTIONS.names,
            )
        )
    assert writer.version is not None
    return writer.version


def planted(
    seed: int, groups: int = 10, size: int = 8
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[tuple[str, str, str]]]:
    """Items in groups that users stay within; `text` shows the group, `image` is noise."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((groups, 8))
    names = [f"g{g}-{i}" for g in range(groups) for i in range(size)]
    text = {
        name: (centres[int(name[1:].split("-")[0])] + 0.2 * rng.standard_normal(8)).astype(np.float32) for name in names
    }
    image = {name: rng.standard_normal(8).astype(np.float32) for name in names}
    rows = []
    for user in range(60):
        own = [name for name in names if name.startswith(f"g{user % groups}-")]
        picked = rng.choice(own, 4, replace=False)
        rows += [
            (f"u{user}", str(item), split)
            for item, split in zip(picked, ("train", "train", "train", "valid"), strict=True)
        ]
    return text, image, rows


def measured(table: pa.Table) -> Measures:
    return {(row["measure"], row["feature"], row["other"]): row["value"] for row in table.to_pylist()}


def test_a_feature_that_users_follow_shows_lift_and_noise_does_not(store: Store, publish: Publish) -> None:
    text, image, rows = planted(0)
    features = {"text": publish("text", text), "image": publish("image", image)}
    graph = similarity.run(store=store, features=features, config=SimilarityConfig(k=5))
    found = measured(assess(store=store, graph=graph, features=features, interactions=interactions(store, rows)))
    assert found["share a user", "text", None] > 3 * found["share a user by chance", "text", None]
    assert found["lift", "text", None] > 2 * found["lift", "image", None]
    assert found["lift", "image", None] < 2
    assert found["agreement", "text", "fused"] > found["agreement", "image", "text"]


def test_coverage_degrees_and_components_of_a_known_graph(store: Store, publish: Publish) -> None:
    east, north = np.eye(8, dtype=np.float32)[:2]
    vectors = {"a": east, "b": east * 2, "c": east + 0.01 * north, "x": -north, "y": -north + 0.01 * east, "none": None}
    features = {"text": publish("text", vectors)}
    graph = similarity.run(store=store, features=features, config=SimilarityConfig(k=1))
    found = measured(assess(store=store, graph=graph, features=features))
    assert found["items", "text", None] == 5
    assert found["coverage", "text", None] == pytest.approx(5 / 6)
    assert found["degree", "text", None] == 1
    assert found["isolated", "text", None] == 1
    assert found["components", "text", None] == 2
    assert found["largest component", "text", None] == pytest.approx(3 / 5)
    assert found["largest hub", "text", None] == 2  # a is nearest to b and, before b by name, to c
    assert found["never a neighbour", "text", None] == pytest.approx(1 / 5)


def test_same_content_and_near_duplicates_are_reported_once_each(store: Store, publish: Publish) -> None:
    vectors = dict(random_vectors(1, 40))
    base = vectors["item-0003"]
    assert base is not None
    vectors |= {f"copy-{i:02d}": base for i in range(15)}  # more than k
    vectors["close"] = base + np.float32(0.01)
    features = {"text": publish("text", vectors)}
    graph = similarity.run(store=store, features=features, config=SimilarityConfig(k=3, near_duplicate=0.999))
    found = duplicates(store=store, graph=graph, features=features).to_pylist()
    same = {(r["item_id"], r["duplicate_id"]) for r in found if r["kind"] == "same content"}
    assert same == {("copy-00", f"copy-{i:02d}") for i in range(1, 15)} | {("copy-00", "item-0003")}
    near = [r for r in found if r["kind"] == "near"]
    assert near
    assert all("close" in (r["item_id"], r["duplicate_id"]) for r in near)


def test_learned_weights_favour_what_users_follow_and_are_recorded(store: Store, publish: Publish) -> None:
    text, image, rows = planted(1)
    features = {"text": publish("text", text), "image": publish("image", image)}
    config = SimilarityConfig(k=5, weighting=Weighting.LEARNED)
    graph = similarity.run(store=store, features=features, config=config, interactions=interactions(store, rows))
    weights = json.loads(graph.lineage["cm3.measured"])["weights"]
    assert weights["text"] > 0.8
    assert sum(weights.values()) == pytest.approx(1, abs=1e-5)
    other = interactions(store, [*rows, ("new", "g0-0", "train")])
    assert similarity.run(store=store, features=features, config=config, interactions=other).version != graph.version


def test_test_interactions_teach_nothing(store: Store, publish: Publish) -> None:
    text, image, rows = planted(2)
    features = {"text": publish("text", text), "image": publish("image", image)}
    config = SimilarityConfig(k=5, weighting=Weighting.LEARNED)
    leak = [(f"t{n}", f"g{n % 10}-{n % 8}", "test") for n in range(80)]
    runs = [
        similarity.run(store=store, features=features, config=config, interactions=interactions(store, choice))
        for choice in (rows, rows + leak)
    ]
    taught = [json.loads(version.lineage["cm3.measured"])["weights"] for version in runs]
    assert taught[0] == taught[1]


def test_learning_needs_interactions(store: Store, publish: Publish) -> None:
    features = {"text": publish("text", random_vectors(0, 10))}
    with pytest.raises(UserError, match="no interactions"):
        similarity.run(store=store, features=features, config=SimilarityConfig(weighting=Weighting.LEARNED))


def test_similar_gives_an_items_nearest_by_rank(store: Store, publish: Publish) -> None:
    features = {"text": publish("text", random_vectors(3, 50)), "image": publish("image", random_vectors(4, 50))}
    graph = similarity.run(store=store, features=features, config=SimilarityConfig(k=6))
    expected = [row for row in store.read(graph).to_pylist() if row["item_id"] == "item-0007"][:4]
    assert similar(store, "shop", "item-0007", 4).to_pylist() == expected
    with pytest.raises(UserError, match="item-9999"):
        similar(store, "shop", "item-9999", 4)
    with pytest.raises(UserError, match="nowhere"):
        similar(store, "nowhere", "item-0007", 4)
