"""The published graph is exactly what brute force in float64 finds, ties, twins and gaps included."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline import similarity
from pipeline.similarity.layout import assemble
from pipeline.similarity.search import Operand
from pipeline.store import Store
from schemas import tables
from schemas.errors import UserError
from schemas.lineage import Lineage
from schemas.similarity import Edges, SimilarityConfig
from tests.pipeline.similarity.conftest import Publish, Vectors, as_edges, brute_force, random_vectors
from tests.support.gpu import needs_cuda


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
    features = CASES[case]
    weights = dict(zip(sorted(features), (0.1, 0.9, 0.3), strict=False))
    published = {name: publish(name, vectors) for name, vectors in features.items()}
    version = similarity.run(store=store, features=published, config=SimilarityConfig(k=7, weights=weights))
    table = store.read(version)
    assert table.schema.equals(tables.similarity(tuple(sorted(features))))
    assert as_edges(table) == brute_force(features, weights, 7)


def test_rows_are_sorted_by_item_and_rank_and_carry_each_cosine(store: Store, publish: Publish) -> None:
    features = CASES["two features with gaps"]
    published = {name: publish(name, vectors) for name, vectors in features.items()}
    table = store.read(similarity.run(store=store, features=published, config=SimilarityConfig())).to_pylist()
    assert [(r["item_id"], r["rank"]) for r in table] == sorted((r["item_id"], r["rank"]) for r in table)
    for row in table:
        for name, vectors in features.items():
            a, b = vectors.get(row["item_id"]), vectors.get(row["neighbor_id"])
            if a is None or b is None:
                assert row[f"similarity_{name}"] is None
            else:
                a, b = a.astype(np.float64), b.astype(np.float64)
                expected = float(a @ b / np.sqrt((a @ a) * (b @ b)))
                assert row[f"similarity_{name}"] == pytest.approx(expected, abs=1e-7)


def test_each_features_own_neighbours_can_be_read_back(store: Store, publish: Publish) -> None:
    features = CASES["three features"]
    published = {name: publish(name, vectors) for name, vectors in features.items()}
    table = store.read(similarity.run(store=store, features=published, config=SimilarityConfig(k=5))).to_pandas()
    for name, vectors in features.items():
        own = table.dropna(subset=f"similarity_{name}").sort_values(
            ["item_id", f"similarity_{name}", "neighbor_id"], ascending=[True, False, True]
        )
        found = own.groupby("item_id").head(5)
        alone = brute_force({name: vectors}, {name: 1.0}, 5)
        assert set(zip(found["item_id"], found["neighbor_id"], strict=True)) == set(alone)


def test_self_counts_among_the_k_where_asked(store: Store, publish: Publish) -> None:
    published = {"text": publish("text", CASES["one feature"]["text"])}
    table = store.read(similarity.run(store=store, features=published, config=SimilarityConfig(k=5, include_self=True)))
    without = brute_force(CASES["one feature"], {"text": 1.0}, 4)
    edges = as_edges(table)
    assert {edge for edge in edges if edge[0] != edge[1]} == set(without)
    assert {a for a, b in edges if a == b} == set(CASES["one feature"]["text"])


def test_symmetric_adds_each_reverse_and_mutual_keeps_only_pairs(store: Store, publish: Publish) -> None:
    vectors = random_vectors(20, 100)
    published = {"text": publish("text", vectors)}
    directed = set(brute_force({"text": vectors}, {"text": 1.0}, 4))
    reverse = {(b, a) for a, b in directed}

    def built(edges: Edges) -> set[tuple[str, str]]:
        version = similarity.run(store=store, features=published, config=SimilarityConfig(k=4, edges=edges))
        return set(as_edges(store.read(version)))

    assert built(Edges.DIRECTED) == directed
    assert built(Edges.SYMMETRIC) == directed | reverse
    assert built(Edges.MUTUAL) == directed & reverse
    assert directed & reverse != directed


def test_vectors_that_are_zero_or_not_finite_count_as_absent(store: Store, publish: Publish) -> None:
    vectors: dict[str, np.ndarray | None] = dict(random_vectors(21, 30))
    good = dict(vectors)
    vectors |= {str(bad): np.full(8, bad, np.float32) for bad in (0.0, np.nan, np.inf)}
    version = similarity.run(store=store, features={"text": publish("text", vectors)}, config=SimilarityConfig(k=3))
    assert as_edges(store.read(version)) == brute_force({"text": good}, {"text": 1.0}, 3)


def test_a_changed_weight_encoder_vector_or_k_never_meets_an_old_graph(store: Store, publish: Publish) -> None:
    image, text = random_vectors(30, 60), random_vectors(31, 60)
    published = {"image": publish("image", image), "text": publish("text", text)}
    config = SimilarityConfig(k=3, weights={"image": 0.1, "text": 0.9})
    first = similarity.run(store=store, features=published, config=config)
    assert similarity.run(store=store, features=published, config=config).reused
    moved = image | {"item-0000": -np.ones(8, np.float32)}
    others = [
        (published, config.model_copy(update={"weights": {"image": 0.2, "text": 0.8}})),
        (published, config.model_copy(update={"k": 4})),
        (published | {"image": publish("image", image, encoder="another")}, config),
        (published | {"image": publish("image", moved)}, config),
        ({"text": published["text"]}, SimilarityConfig(k=3)),
    ]
    versions = [similarity.run(store=store, features=features, config=changed) for features, changed in others]
    assert not any(version.reused for version in versions)
    assert len({first.version, *(version.version for version in versions)}) == 1 + len(versions)
    assert as_edges(store.read(versions[3])) == brute_force({"image": moved, "text": text}, config.weights, 3)


def test_an_item_twice_in_a_table_is_refused(store: Store, publish: Publish) -> None:
    version = publish("text", {"a": np.ones(8, np.float32), "b": np.ones(8, np.float32)})
    table = store.read(version)
    lineage = Lineage(dataset="shop", table="features/twice", stage="test", stage_version=1, config={})
    with store.writer(tables.features(8), lineage) as writer:
        writer.write(table)
        writer.write(table)
    assert writer.version is not None
    with pytest.raises(UserError, match="more than once"):
        similarity.run(store=store, features={"twice": writer.version}, config=SimilarityConfig())


def test_weights_must_name_the_features(store: Store, publish: Publish) -> None:
    version = publish("text", random_vectors(0, 10))
    with pytest.raises(UserError, match="clip"):
        similarity.run(store=store, features={"text": version}, config=SimilarityConfig(weights={"clip": 1.0}))
    with pytest.raises(UserError, match="at least one feature"):
        similarity.run(store=store, features={}, config=SimilarityConfig())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dim", [8, 384])
def test_no_block_errs_by_more_than_its_bound(dtype: torch.dtype, dim: int) -> None:
    rng = np.random.default_rng(dim)
    matrix = (rng.standard_normal((300, dim)) * rng.exponential(3, (300, 1))).astype(np.float32)
    matrix[:50] = np.abs(matrix[:50])  # all of one sign, so errors may add up
    ids = pa.array([f"i{row}" for row in range(300)])
    catalogue = assemble({"x": (ids, matrix)}, {"x": 1.0})
    operand = Operand(catalogue.features[0], torch.device("cpu"), dtype)
    laid_out = catalogue.features[0].matrix.astype(np.float64)
    laid_out /= np.linalg.norm(laid_out, axis=1, keepdims=True)
    product = (operand.span(slice(0, 300)) @ operand.span(slice(0, 300)).T).double().numpy()
    worst = np.abs(product - laid_out @ laid_out.T).max()
    assert 0 < worst <= operand.error
    assert operand.error < 0.02
