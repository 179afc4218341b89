"""`diff` compares versions as the closed forms say: a rotation is no change; lost items and other figures are."""

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
from schemas.registry import RegistryConfig
from schemas.training import CM3Config
from tests.support.published import publish

DIM = 6
RNG = np.random.default_rng(3)
VECTORS = RNG.normal(size=(40, DIM)).astype(np.float32)
ROTATION = ortho_group.rvs(DIM, random_state=5).astype(np.float32)
IDS = [f"i{n:02d}" for n in range(40)]


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
    rows_by_table = {
        "embeddings/items": embedded,
        "features/sentence": pa.table(feature, schema=tables.features(vectors.shape[1])),
        "similarity": pa.Table.from_pylist(graph, schema=tables.similarity(())),
        "metrics": pa.Table.from_pylist(rows, schema=tables.METRICS),
        "epochs": pa.Table.from_pylist([epoch], schema=tables.EPOCHS),
    }
    versions = {name: publish(store, name, rows, config={"run": run}) for name, rows in rows_by_table.items()}
    if "embeddings" in figures:
        versions["embeddings/items"] = figures["embeddings"]
    registry.run(store=store, tables=versions, parameters={}, config=RegistryConfig())


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory) -> Store:
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


def test_a_rotation_of_the_whole_space_is_no_drift_and_moves_no_neighbour(drifted: Store) -> None:
    compared = diff.run(store=drifted, dataset="shop", a="1", b="2")
    assert (compared.items_both, compared.items_only_a, compared.items_only_b) == (40, 0, 0)
    assert compared.drift == pytest.approx(0, abs=1e-5)
    assert compared.neighbor_overlap == compared.graph_overlap == 1
    assert all(pair.change == 0 for pair in compared.metrics.values())


def test_items_coverage_metrics_and_the_one_item_that_moved_are_named(drifted: Store) -> None:
    compared = diff.run(store=drifted, dataset="shop", a="1", b="champion")
    assert (compared.a, compared.b) == (1, 3)
    assert (compared.items_both, compared.items_only_a, compared.items_only_b) == (38, 2, 1)
    assert compared.coverage["sentence"].model_dump() == {"a": 0.9, "b": 1.0}
    assert compared.metrics["test ndcg@20"].change == pytest.approx(0.1)
    assert compared.graph_overlap == pytest.approx(19 / (37 + 1))
    assert next(iter(compared.most_moved)) == "i07"
    assert compared.most_moved["i07"] > 5 * list(compared.most_moved.values())[1]
    assert compared.neighbor_overlap is not None
    assert 0.5 < compared.neighbor_overlap < 1


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


def test_an_unknown_version_is_refused_with_those_that_exist(drifted: Store) -> None:
    with pytest.raises(UserError, match=r"no registered version '9'; registered: 1, 2, 3 \(champion\)"):
        diff.run(store=drifted, dataset="shop", a="1", b="9")


def test_terms_of_the_score_are_no_part_of_what_an_item_is(store: Store) -> None:
    for run, loud in enumerate((0.1, 50.0)):
        noise = loud * np.random.default_rng(run).normal(size=(40, 3)).astype(np.float32)
        vectors = np.concatenate([VECTORS, noise], axis=1)
        embeddings = publish(
            store,
            "embeddings/items",
            pa.table([pa.array(IDS), fixed_width_from(vectors)], schema=tables.item_embeddings(DIM + 3)),
            config=CM3Config(dim=DIM // 2).model_dump(mode="json"),
            stage="train",
            stage_version=run,
            encoder="cm3",
            inputs={"features/sentence": "x"},
        )
        register(store, run, IDS, VECTORS, [], ndcg=0.1, missing=0, embeddings=embeddings)
    compared = diff.run(store=store, dataset="shop", a="1", b="2")
    assert compared.drift == pytest.approx(0, abs=1e-6)
    assert compared.neighbor_overlap == 1
