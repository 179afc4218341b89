"""Feature tables and choices made for the tests of the similarity graph, and the graph by brute force in float64."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import similarity
from pipeline.store import Store
from schemas import tables
from schemas.lineage import TableVersion
from schemas.similarity import SimilarityConfig
from tests.support.published import publish

Vectors = Mapping[str, NDArray[np.float32] | None]
"""item_id → vector, None where the item lacks the feature."""
Edges = dict[tuple[str, str], tuple[int, float]]
"""(item, neighbour) → (rank, fused similarity)."""
Choice = tuple[str, str, str]
"""user_id, item_id, split."""


def publish_feature(store: Store, name: str, vectors: Vectors, dim: int = 8, encoder: str = "test") -> TableVersion:
    """Publish `features/<name>` as extraction would, keyed by its content."""
    schema = tables.features(dim)
    hashes = [None if v is None else v.tobytes().hex() for v in vectors.values()]
    values = np.array([np.zeros(dim) if v is None else v for v in vectors.values()], np.float32).reshape(-1)
    absent = pa.array([v is None for v in vectors.values()], pa.bool_())
    embedding = pa.FixedSizeListArray.from_arrays(values, type=schema.field("embedding").type, mask=absent)
    columns = [pa.array([*vectors], pa.string()), pa.array(hashes, pa.string()), embedding]
    table = pa.table([*columns, pa.nulls(len(vectors), pa.string())], schema=schema)
    config = {"vectors": dict(zip(vectors, hashes, strict=True))}
    return publish(store, f"features/{name}", table, config=config, encoder=encoder)


def publish_choices(store: Store, choices: Sequence[Choice]) -> TableVersion:
    """Publish `interactions`, in this order."""
    rows = [{"user_id": user, "item_id": item, "split": split} for user, item, split in choices]
    table = pa.Table.from_pylist(rows, schema=tables.INTERACTIONS)
    return publish(store, "interactions", table, config=[list(choice) for choice in choices])


def build(store: Store, features: Mapping[str, TableVersion], config: SimilarityConfig, **more: Any) -> TableVersion:
    """The graph that the stage publishes."""
    return similarity.run(store=store, features=features, config=config, **more).tables["similarity"]


def random_vectors(
    seed: int, n: int, dim: int = 8, absent: float = 0.0, repeated: float = 0.0
) -> dict[str, NDArray[np.float32] | None]:
    """Seeded vectors on a coarse grid (so that ties happen), some absent, some copies of others; ids not in order."""
    rng = np.random.default_rng(seed)
    matrix = rng.integers(-3, 4, (n, dim)).astype(np.float32) + np.float32(0.5)
    source = np.where(rng.random(n) < repeated, rng.integers(0, max(n // 10, 1), n), np.arange(n))
    ids = rng.permutation(n)
    return {f"item-{ids[i]:04d}": None if rng.random() < absent else matrix[source[i]] for i in range(n)}


def clustered(seed: int, groups: int = 40, size: int = 30) -> dict[str, NDArray[np.float32] | None]:
    """Items around centres; ids say nothing about the group."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((groups, 8))
    ids = np.random.default_rng(8).permutation(groups * size)
    return {
        f"i{ids[n]:05d}": (centres[n % groups] + 0.15 * rng.standard_normal(8)).astype(np.float32)
        for n in range(groups * size)
    }


def planted(
    seed: int, groups: int = 10, size: int = 8
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[Choice]]:
    """Items in groups that users stay within: a vector that shows the group, one that is noise, and the choices."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((groups, 8))
    names = [f"g{g}-{i}" for g in range(groups) for i in range(size)]
    text = {
        name: (centres[int(name[1:].split("-")[0])] + 0.2 * rng.standard_normal(8)).astype(np.float32) for name in names
    }
    image = {name: rng.standard_normal(8).astype(np.float32) for name in names}
    choices = []
    for user in range(60):
        own = [name for name in names if name.startswith(f"g{user % groups}-")]
        picked = rng.choice(own, 4, replace=False)
        splits = ("train", "train", "train", "valid")
        choices += [(f"u{user}", str(item), split) for item, split in zip(picked, splits, strict=True)]
    return text, image, choices


def brute_force(features: Mapping[str, Vectors], weights: Mapping[str, float], k: int) -> Edges:
    """(item, neighbour) → (rank, fused similarity): float64 throughout, every pair, sorted whole."""
    ids = sorted({item for vectors in features.values() for item in vectors})
    cosines = {}
    for name, vectors in features.items():
        dim = next((len(v) for v in vectors.values() if v is not None), 1)
        matrix = np.full((len(ids), dim), np.nan)
        for row, item in enumerate(ids):
            if (vector := vectors.get(item)) is not None:
                matrix[row] = vector
        norm = np.sqrt((matrix**2).sum(axis=1))
        dots = np.array([[float((a * b).sum()) for b in matrix] for a in matrix]).reshape(len(ids), len(ids))
        cosines[name] = dots / (norm[:, None] * norm[None, :])
    both = {name: ~np.isnan(c) for name, c in cosines.items()}
    total = sum(weights[name] * both[name] for name in cosines)
    fused = sum(weights[name] * np.nan_to_num(c) for name, c in cosines.items()) / np.where(total > 0, total, np.nan)
    edges: Edges = {}
    for row, item in enumerate(ids):
        chosen: set[int] = set()
        for channel in (*cosines.values(), fused):
            values = channel[row].astype(np.float32)
            others = [j for j in range(len(ids)) if j != row and not np.isnan(values[j])]
            chosen |= set(sorted(others, key=lambda j: (-values[j], j))[:k])
        rounded = fused[row].astype(np.float32)
        for rank, j in enumerate(sorted(chosen, key=lambda j: (-rounded[j], j)), start=1):
            edges[item, ids[j]] = (rank, float(rounded[j]))
    return edges


def as_edges(table: pa.Table) -> Edges:
    """A published table in the form of `brute_force`."""
    return {(row["item_id"], row["neighbor_id"]): (row["rank"], row["similarity"]) for row in table.to_pylist()}
