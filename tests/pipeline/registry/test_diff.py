"""`diff` compares versions as the closed forms say: rotations are no change, lost items and figures are."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import ortho_group

from pipeline import registry
from pipeline.features.columns import fixed_width_from
from pipeline.registry import diff
from pipeline.store import Store
from schemas import tables
from schemas.errors import UserError
from schemas.lineage import Lineage, TableVersion
from schemas.registry import RegistryConfig
from schemas.training import CM3Config

DIM = 6
RNG = np.random.default_rng(3)
VECTORS = RNG.normal(size=(40, DIM)).astype(np.float32)
ROTATION = ortho_group.rvs(DIM, random_state=5).astype(np.float32)
IDS = [f"i{n:02d}" for n in range(40)]


def publish(store: Store, table: str, rows: pa.Table, run: int) -> TableVersion:
    return publish_as(store, rows, Lineage(dataset="shop", table=table, stage="test", stage_version=run, config={}))


def publish_as(store: Store, rows: pa.Table, lineage: Lineage) -> TableVersion:
    with store.writer(rows.schema, lineage) as writer:
        writer.write(rows)
    return writer.version


def register(
    store: Store, run: int, ids: list[str], vectors: np.ndarray, edges: list[tuple[str, str]], **figures: Any
) -> None:
    """One version with everything that `diff` reads; `figures`: ndcg, and missing feature vectors."""
    have = np.arange(len(ids)) >= figures["missing"]
    content = pa.array([f"h{i}" if ok else None for i, ok in zip(ids, have, strict=True)], pa.string())
    metric = {"model": "cm3", "seed": 0, "metric": "ndcg", "k": 20, "users": 9}
    rows = [metric | {"split": "test", "value": figures["ndcg"]}, metric | {"split": "valid", "value": 0.5}]
    graph = [{"item_id": i, "neighbor_id": j, "rank": 1, "similarity": 0.5} for i, j in edges]
    epoch = {"model": "cm3", "seed": 0, "epoch": 1, "metric": "loss", "value": 1.0}
    feature = [pa.array(ids), content, fixed_width_from(vectors, missing=~have), pa.nulls(len(ids), pa.string())]
    embedded = pa.table([pa.array(ids), fixed_width_from(vectors)], schema=tables.item_embeddings(vectors.shape[1]))
    published: Mapping[str, pa.Table] = {
        "embeddings/items": embedded,
        "features/sentence": pa.table(feature, schema=tables.features(vectors.shape[1])),
        "similarity": pa.Table.from_pylist(graph, schema=tables.similarity(())),
        "metrics": pa.Table.from_pylist(rows, schema=tables.METRICS),
        "epochs": pa.Table.from_pylist([epoch], schema=tables.EPOCHS),
    }  # fmt: skip
    versions = {name: publish(store, name, rows, run) for name, rows in published.items()}
    if "embeddings" in figures:
        versions["embeddings/items"] = figures["embeddings"]
    registry.run(store=store, tables=versions, parameters={}, config=RegistryConfig())


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Version 1; 2: rotated and scaled alone; 3: two items gone, one new, one moved, other figures."""
    store = Store(tmp_path_factory.mktemp("diff"))
    ring = [(IDS[n], IDS[(n + 1) % 40]) for n in range(40)]
    register(store, 1, IDS, VECTORS, ring, ndcg=0.2, missing=4)
    register(store, 2, IDS, 3 * VECTORS @ ROTATION, ring, ndcg=0.2, missing=4)
    moved = VECTORS @ ROTATION
    moved[7] = -moved[7]
    ids = [*IDS[:38], "i99"]
    vectors = np.vstack([moved[:38], RNG.normal(size=(1, DIM)).astype(np.float32)])
    register(store, 3, ids, vectors, [*ring[:19], ("i30", "i10")], ndcg=0.3, missing=0)
    return store


def test_a_rotation_of_the_whole_space_is_no_drift_and_moves_no_neighbour(shop: Store) -> None:
    found = diff.run(store=shop, dataset="shop", a="1", b="2")
    assert (found.items_both, found.items_only_a, found.items_only_b) == (40, 0, 0)
    assert found.drift == pytest.approx(0, abs=1e-5)
    assert found.neighbor_overlap == found.graph_overlap == 1
    assert all(pair.change == 0 for pair in found.metrics.values())


def test_items_coverage_metrics_and_the_one_item_that_moved_are_named(shop: Store) -> None:
    found = diff.run(store=shop, dataset="shop", a="1", b="champion")
    assert (found.a, found.b) == (1, 3)
    assert (found.items_both, found.items_only_a, found.items_only_b) == (38, 2, 1)
    assert found.coverage["sentence"].model_dump() == {"a": 0.9, "b": 1.0}
    assert found.metrics["test ndcg@20"].change == pytest.approx(0.1)
    assert found.graph_overlap == pytest.approx(19 / (37 + 1))
    assert next(iter(found.most_moved)) == "i07"
    assert found.most_moved["i07"] > 5 * list(found.most_moved.values())[1]
    assert found.neighbor_overlap is not None
    assert 0.5 < found.neighbor_overlap < 1


def test_neighbour_overlap_is_what_a_plain_loop_counts() -> None:
    other = VECTORS + RNG.normal(size=VECTORS.shape).astype(np.float32)

    def near(rows: np.ndarray, item: int) -> set[int]:
        cosine = rows @ rows[item] / np.linalg.norm(rows, axis=1)
        return set(sorted((n for n in range(40) if n != item), key=lambda n: -cosine[n])[:5])

    expected = np.mean([len(near(VECTORS, n) & near(other, n)) / 5 for n in range(40)])
    assert diff.neighbor_overlap(VECTORS, other, 5) == pytest.approx(expected)
    assert diff.neighbor_overlap(VECTORS[:3], VECTORS[:3], 10) == 1


def test_vectors_of_another_width_are_compared_too() -> None:
    wide = np.pad(VECTORS, ((0, 0), (0, 3))) @ ortho_group.rvs(DIM + 3, random_state=1).astype(np.float32)
    a, b = diff._same_width(VECTORS, wide)
    assert diff.drift(a, b).max() < 1e-4


def test_an_unknown_version_is_refused_with_those_that_exist(shop: Store) -> None:
    with pytest.raises(UserError, match=r"no registered version '9'; registered: 1, 2, 3 \(champion\)"):
        diff.run(store=shop, dataset="shop", a="1", b="9")


def test_terms_of_the_score_are_no_part_of_what_an_item_is(store: Store) -> None:
    for run, loud in enumerate((0.1, 50.0)):
        noise = loud * np.random.default_rng(run).normal(size=(40, 3)).astype(np.float32)
        vectors = np.concatenate([VECTORS, noise], axis=1)
        config = CM3Config(dim=DIM // 2).model_dump(mode="json")
        lineage = Lineage(
            dataset="shop", table="embeddings/items", stage="train", stage_version=run, config=config, encoder="cm3",
            inputs={"features/sentence": "x"},
        )  # fmt: skip
        table = pa.table([pa.array(IDS), fixed_width_from(vectors)], schema=tables.item_embeddings(DIM + 3))
        register(store, run, IDS, VECTORS, [], ndcg=0.1, missing=0, embeddings=publish_as(store, table, lineage))
    found = diff.run(store=store, dataset="shop", a="1", b="2")
    assert found.drift == pytest.approx(0, abs=1e-6)
    assert found.neighbor_overlap == 1
