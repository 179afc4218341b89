"""The published graph is exactly that of brute force in float64, ties, twins and gaps included."""

from collections.abc import Mapping

import numpy as np
import pytest

from pipeline.store import Store
from schemas import tables
from schemas.errors import UserError
from schemas.similarity import Edges, SimilarityConfig
from tests.pipeline.similarity.conftest import Publish
from tests.support.gpu import needs_cuda
from tests.support.similarity_graphs import Vectors, as_edges, brute_force, build, random_vectors


@pytest.fixture(params=["bfloat16", "float32", pytest.param("cuda", marks=needs_cuda)])
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way blocks are multiplied, whatever this processor has."""
    monkeypatch.setenv("CM3_DEVICE", "cuda:0" if request.param == "cuda" else "cpu")
    monkeypatch.setattr("pipeline.similarity.search.cpu_multiplies_bfloat16", lambda: request.param == "bfloat16")
    for block in ("BLOCK", "BLOCK_GPU"):
        monkeypatch.setattr(f"pipeline.similarity.search.{block}", 64)
    return str(request.param)


def close_together(seed: int, n: int) -> Vectors:
    """Cosines between 0.9999 and 1: bfloat16 sees them all as one value, float32 many."""
    noise = np.random.default_rng(seed).standard_normal((n, 8)).astype(np.float32)
    return {f"i{row:03d}": np.float32(1) + np.float32(3e-3) * noise[row] for row in range(n)}


def of_length_1(vectors: Vectors) -> Vectors:
    """As encoders publish them."""
    return {item: row if row is None else row / np.float32(np.linalg.norm(row)) for item, row in vectors.items()}


CASES: dict[str, Mapping[str, Vectors]] = {
    "one feature": {"text": random_vectors(0, 300)},
    "vectors of length 1": {"text": of_length_1(random_vectors(13, 300))},
    "two features with gaps": {"image": random_vectors(1, 200, absent=0.4), "text": random_vectors(2, 250, absent=0.1)},
    "twins in one feature and in both": {
        "image": random_vectors(3, 220, repeated=0.6),
        "text": random_vectors(3, 220, repeated=0.3),
    },
    "three features": {
        "caption": random_vectors(5, 120, absent=0.7, repeated=0.3),
        "image": random_vectors(6, 150, absent=0.2, repeated=0.2),
        "text": random_vectors(7, 90),
    },
    "every item the same": {"text": dict.fromkeys([f"i{n:03d}" for n in range(150)], np.ones(8, np.float32))},
    "closer than bfloat16 can tell": {"image": close_together(0, 250), "text": close_together(1, 250)},
    "fewer items than k": {"image": random_vectors(8, 3), "text": random_vectors(9, 4, absent=0.5)},
    "a feature that nobody has": {"image": random_vectors(10, 50, absent=1.1), "text": random_vectors(11, 50)},
    "no feature at all": {"text": random_vectors(12, 20, absent=1.1)},
    "no items": {"text": {}},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("precision")
def test_equals_brute_force(store: Store, publish: Publish, case: str) -> None:
    vectors = CASES[case]
    weights = dict(zip(sorted(vectors), (0.1, 0.9, 0.3), strict=False))
    features = {name: publish(name, rows) for name, rows in vectors.items()}
    version = build(store, features, SimilarityConfig(k=7, weights=weights))
    table = store.read(version)
    assert table.schema.equals(tables.similarity(tuple(sorted(features))))
    assert as_edges(table) == brute_force(vectors, weights, 7)


def test_rows_are_sorted_by_item_and_rank_and_carry_each_cosine(store: Store, publish: Publish) -> None:
    vectors = CASES["two features with gaps"]
    features = {name: publish(name, rows) for name, rows in vectors.items()}
    table = store.read(build(store, features, SimilarityConfig())).to_pylist()
    assert [(r["item_id"], r["rank"]) for r in table] == sorted((r["item_id"], r["rank"]) for r in table)
    for row in table:
        for name, by_item in vectors.items():
            a, b = by_item.get(row["item_id"]), by_item.get(row["neighbor_id"])
            if a is None or b is None:
                assert row[f"similarity_{name}"] is None
            else:
                a, b = a.astype(np.float64), b.astype(np.float64)
                expected = float(a @ b / np.sqrt((a @ a) * (b @ b)))
                assert row[f"similarity_{name}"] == pytest.approx(expected, abs=1e-7)


def test_each_features_own_neighbours_can_be_read_back(store: Store, publish: Publish) -> None:
    vectors = CASES["three features"]
    features = {name: publish(name, rows) for name, rows in vectors.items()}
    table = store.read(build(store, features, SimilarityConfig(k=5))).to_pandas()
    for name, by_item in vectors.items():
        own = table.dropna(subset=f"similarity_{name}").sort_values(
            ["item_id", f"similarity_{name}", "neighbor_id"], ascending=[True, False, True]
        )
        nearest = own.groupby("item_id").head(5)
        alone = brute_force({name: by_item}, {name: 1.0}, 5)
        assert set(zip(nearest["item_id"], nearest["neighbor_id"], strict=True)) == set(alone)


def test_self_counts_among_the_k_where_asked(store: Store, publish: Publish) -> None:
    features = {"text": publish("text", CASES["one feature"]["text"])}
    table = store.read(build(store, features, SimilarityConfig(k=5, include_self=True)))
    without = brute_force(CASES["one feature"], {"text": 1.0}, 4)
    edges = as_edges(table)
    assert {edge for edge in edges if edge[0] != edge[1]} == set(without)
    assert {a for a, b in edges if a == b} == set(CASES["one feature"]["text"])


def test_symmetric_adds_each_reverse_and_mutual_keeps_only_pairs(store: Store, publish: Publish) -> None:
    vectors = random_vectors(20, 100)
    features = {"text": publish("text", vectors)}
    directed = set(brute_force({"text": vectors}, {"text": 1.0}, 4))
    reverse = {(b, a) for a, b in directed}

    def built(edges: Edges) -> set[tuple[str, str]]:
        version = build(store, features, SimilarityConfig(k=4, edges=edges))
        return set(as_edges(store.read(version)))

    assert built(Edges.DIRECTED) == directed
    assert built(Edges.SYMMETRIC) == directed | reverse
    assert built(Edges.MUTUAL) == directed & reverse
    assert directed & reverse != directed


def test_vectors_that_are_zero_or_not_finite_count_as_absent(store: Store, publish: Publish) -> None:
    vectors: dict[str, np.ndarray | None] = dict(random_vectors(21, 30))
    good = dict(vectors)
    vectors |= {str(bad): np.full(8, bad, np.float32) for bad in (0.0, np.nan, np.inf)}
    version = build(store, {"text": publish("text", vectors)}, SimilarityConfig(k=3))
    assert as_edges(store.read(version)) == brute_force({"text": good}, {"text": 1.0}, 3)


def test_a_changed_weight_encoder_vector_or_k_never_meets_an_old_graph(store: Store, publish: Publish) -> None:
    image, text = random_vectors(30, 60), random_vectors(31, 60)
    features = {"image": publish("image", image), "text": publish("text", text)}
    config = SimilarityConfig(k=3, weights={"image": 0.1, "text": 0.9})
    first = build(store, features, config)
    assert build(store, features, config).reused
    moved = image | {"item-0000": -np.ones(8, np.float32)}
    others = [
        (features, config.model_copy(update={"weights": {"image": 0.2, "text": 0.8}})),
        (features, config.model_copy(update={"k": 4})),
        (features | {"image": publish("image", image, encoder="another")}, config),
        (features | {"image": publish("image", moved)}, config),
        ({"text": features["text"]}, SimilarityConfig(k=3)),
    ]
    versions = [build(store, tables, changed) for tables, changed in others]
    assert not any(version.reused for version in versions)
    assert len({first.version, *(version.version for version in versions)}) == 1 + len(versions)
    assert as_edges(store.read(versions[3])) == brute_force({"image": moved, "text": text}, config.weights, 3)


def test_weights_must_name_the_features(store: Store, publish: Publish) -> None:
    version = publish("text", random_vectors(0, 10))
    with pytest.raises(UserError, match="clip"):
        build(store, {"text": version}, SimilarityConfig(weights={"clip": 1.0}))
    with pytest.raises(UserError, match="at least one feature"):
        build(store, {}, SimilarityConfig())
