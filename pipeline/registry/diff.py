"""Two registered versions of a data set side by side: coverage, metrics, neighbours, and how far the vectors moved."""

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes

from pipeline.registry import promotion, versions
from pipeline.store import Store
from schemas.diff import Diff, Pair
from schemas.lineage import TableVersion
from schemas.registry import Registered, RegistryConfig
from schemas.training import trained_width

Floats = NDArray[np.float32]

NEIGHBORS = 10
QUERIES = 5000
"""Items whose neighbours are compared; of a larger catalogue, an even sample in the order of item_id."""
BLOCK = 512
MOST_MOVED = 10
MODEL = "cm3"


def run(*, store: Store, dataset: str, a: str, b: str, config: RegistryConfig | None = None) -> Diff:
    """Compare the versions that `a` and `b` name: a registry number or an alias.

    Raises:
        UserError: there is no such version, or garbage collection removed one of its tables.
    """
    registered = versions.registered(store, dataset, config)
    first, second = versions.find(registered, dataset, a), versions.find(registered, dataset, b)
    ids_a, vectors_a = _embeddings(store, first)
    ids_b, vectors_b = _embeddings(store, second)
    both, in_a, in_b = np.intersect1d(ids_a, ids_b, assume_unique=True, return_indices=True)
    left, right = _same_width(vectors_a[in_a], vectors_b[in_b])
    moved = drift(left, right) if len(both) else np.empty(0, np.float32)
    far = np.argsort(-moved, kind="stable")[:MOST_MOVED]
    return Diff(
        dataset=dataset,
        a=first.number,
        b=second.number,
        items_both=len(both),
        items_only_a=len(ids_a) - len(both),
        items_only_b=len(ids_b) - len(both),
        coverage=_coverage(store, first, second),
        metrics=_paired(_metrics(store, first), _metrics(store, second)),
        neighbors=NEIGHBORS,
        neighbor_overlap=neighbor_overlap(left, right, NEIGHBORS) if len(both) > 1 else None,
        graph_overlap=_graph_overlap(store, first, second, both),
        drift=float(moved.mean()) if len(moved) else None,
        most_moved={str(both[row]): float(moved[row]) for row in far},
    )


def drift(a: Floats, b: Floats) -> Floats:
    """1 − cosine of each row of `a` with the row of `b` after `b` was rotated onto `a` as a whole; in [0, 2].

    A rotation of the whole space changes no score, so it does not count as drift: it is removed by the orthogonal
    Procrustes solution (Schönemann 1966) on the L2-normalised rows.

    Args: a, b: (n, dim), float32; a row of zeros has no direction and drifts by 1.
    """
    unit_a, unit_b = _normalised(a), _normalised(b)
    rotation, _ = orthogonal_procrustes(unit_b, unit_a)
    turned = unit_b @ rotation
    moved: Floats = np.clip(1 - np.einsum("ij,ij->i", unit_a, turned), 0, 2).astype(np.float32)
    return moved


def neighbor_overlap(a: Floats, b: Floats, k: int) -> float:
    """Mean share of each row's k nearest other rows, by cosine, that are the same in `a` and in `b`.

    With fewer than k other rows, all of them count; of more than `QUERIES` rows, an even sample is compared.
    """
    n = len(a)
    k = min(k, n - 1)
    unit_a, unit_b = _normalised(a), _normalised(b)
    queries = np.unique(np.linspace(0, n - 1, min(n, QUERIES)).astype(np.int64))
    shared = 0
    for start in range(0, len(queries), BLOCK):
        rows = queries[start : start + BLOCK]
        near_a, near_b = _nearest(unit_a, rows, k), _nearest(unit_b, rows, k)
        shared += int((near_a[:, :, None] == near_b[:, None, :]).sum())
    return shared / (k * len(queries))


def _nearest(unit: Floats, rows: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    scores = unit[rows] @ unit.T
    scores[np.arange(len(rows)), rows] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def _normalised(rows: Floats) -> Floats:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Floats = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return unit


def _same_width(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Pad the narrower one with zeros, which change no cosine."""
    width = max(a.shape[1], b.shape[1])
    return tuple(np.pad(rows, ((0, 0), (0, width - rows.shape[1]))) for rows in (a, b))  # type: ignore[return-value]


def _table(store: Store, registered: Registered, table: str) -> TableVersion:
    return store.get(registered.dataset, table, registered.tables[table])


def _embeddings(store: Store, registered: Registered) -> tuple[NDArray[np.str_], Floats]:
    """Ids and trained vectors, without the columns that other terms of the score add."""
    version = _table(store, registered, versions.EMBEDDINGS)
    table = store.read(version).combine_chunks()
    vectors = table["embedding"].combine_chunks()
    width = vectors.type.list_size
    flat = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(table), width)
    return np.array(table["item_id"].to_pylist(), dtype=str), flat[:, : trained_width(version.lineage, width)]


def _coverage(store: Store, first: Registered, second: Registered) -> dict[str, Pair]:
    shares = [
        {
            name.removeprefix("features/"): promotion.covered(store, _table(store, registered, name))
            for name in registered.tables
            if name.startswith("features/")
        }
        for registered in (first, second)
    ]
    return _paired(*shares)


def _metrics(store: Store, registered: Registered) -> dict[str, float]:
    frame = pl.DataFrame(store.read(_table(store, registered, "metrics"))).filter(pl.col("model") == MODEL)
    means = frame.group_by("split", "metric", "k", maintain_order=True).agg(pl.col("value").mean())
    return {
        f"{split} {metric}" + ("" if k is None else f"@{k}"): value for split, metric, k, value in means.iter_rows()
    }


def _paired(a: dict[str, float], b: dict[str, float]) -> dict[str, Pair]:
    return {name: Pair(a=a.get(name), b=b.get(name)) for name in a | b}


def _graph_overlap(store: Store, first: Registered, second: Registered, both: NDArray[np.str_]) -> float | None:
    """Edges in both graphs divided by edges in either, among the items of both versions; None without edges."""
    items = pl.DataFrame({"item_id": both.tolist()}, schema={"item_id": pl.String})
    a, b = (
        pl.DataFrame(store.read(_table(store, registered, "similarity"), ["item_id", "neighbor_id"]))
        .join(items, on="item_id", how="semi")
        .join(items, left_on="neighbor_id", right_on="item_id", how="semi")
        for registered in (first, second)
    )
    shared = len(a.join(b, on=["item_id", "neighbor_id"], how="semi"))
    union = len(a) + len(b) - shared
    return shared / union if union else None
