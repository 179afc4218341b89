"""The spaces in which items have neighbours and a place on the map: each feature, the fused similarity, CM3."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import polars
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.report.selection import Selection, Tables
from pipeline.report.wording import model_title, shown
from pipeline.store import Store
from schemas.lineage import TableVersion
from schemas.report import ReportConfig
from schemas.training import trained_width

Floats = NDArray[np.float32]
_ORDER = ("sentence", "clip", "image", "caption")
"""Text, pictures, text about pictures; other features follow by name."""
_TITLES = {"clip": "CLIP", "sentence": "Sentence", "caption": "Caption"}


@dataclass
class Space:
    """One kind of similarity between the items shown.

    Attributes:
        near: for each item, the places of its nearest items; empty where it has no vector.
        cosine: their similarity in hundredths, aligned with `near`.
        map: for each item two coordinates in 0…1000, None where it has no vector; None where there is no map.
    """

    title: str
    note: str
    near: list[list[int]] = field(default_factory=list)
    cosine: list[list[int]] = field(default_factory=list)
    map: list[list[int] | None] | None = None

    def payload(self) -> dict[str, Any]:
        """What the page's script reads."""
        return {"title": self.title, "note": self.note, "near": self.near, "cosine": self.cosine, "map": self.map}


def spaces(store: Store, tables: Tables, selection: Selection, config: ReportConfig) -> Iterator[Callable[[], Space]]:
    """For each space of the run (features, fused similarity, CM3), a function that fills it, which takes seconds."""
    tables_of: list[tuple[Space, str]] = []
    features = [name.removeprefix("features/") for name in tables if name.startswith("features/")]
    for name in sorted(features, key=lambda name: (_ORDER.index(name) if name in _ORDER else 9, name)):
        title = _TITLES.get(name, name.replace("_", " ").capitalize())
        tables_of.append((Space(title, _encoder(tables[f"features/{name}"])), f"features/{name}"))
    if "similarity" in tables:
        tables_of.append((Space("Fused similarity", "the item graph used in training"), "similarity"))
    if "embeddings/items" in tables:
        tables_of.append((Space(model_title(config.model), "trained embeddings"), "embeddings/items"))

    for space, table in tables_of:
        fill = _from_table if table == "similarity" else _from_vectors
        yield partial(fill, space, store, tables[table], selection, config)


def nearest(vectors: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
    """The `k` rows with the largest cosine to each row, except itself, and the cosine.

    Args: vectors: (n, dim), any length.
    Returns: places (n, min(k, n - 1)) and cosine in [-1, 1] of the same shape, largest first.
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    k = min(k, len(vectors) - 1)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similarity, order, axis=1)


def project(vectors: Floats, seed: int) -> NDArray[np.int64]:
    """t-SNE on the cosine, scaled into 0…1000. Args: vectors (n ≥ 5, dim). Returns: (n, 2).

    By scikit-learn, which is compiled ahead of time: UMAP would spend half a minute of a small run in numba's compiler.
    On one thread: with two, its 500 short steps took up to five times as long while another process used a core.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    init = "pca" if vectors.shape[1] > 1 else "random"
    angle = 0.65  # a fifth less time than 0.5; the divergence grows by 0.003
    projection = TSNE(metric="cosine", init=init, perplexity=perplexity, random_state=seed, max_iter=500, angle=angle)
    with threadpool_limits(1, user_api="openmp"):
        flat = np.asarray(projection.fit_transform(vectors), dtype=np.float64)
    low, high = (
        np.percentile(flat, 0.5, axis=0),
        np.percentile(flat, 99.5, axis=0),
    )  # one outlier must not shrink the rest
    scaled = (flat - low) / np.maximum(high - low, 1e-9)
    return np.clip(np.round(scaled * 1000), 0, 1000).astype(np.int64)


def _from_vectors(
    space: Space, store: Store, version: TableVersion, selection: Selection, config: ReportConfig
) -> Space:
    places, vectors = _vectors(store, version, selection)
    space.near, space.cosine = [[] for _ in selection.ids], [[] for _ in selection.ids]
    if len(places) < 2:
        return space
    order, cosine = nearest(vectors, config.neighbors)
    for row, place in enumerate(places):
        space.near[place] = [places[column] for column in order[row].tolist()]
        space.cosine[place] = np.rint(cosine[row] * 100).astype(int).tolist()
    if len(places) >= 5:
        coordinates: list[list[int] | None] = [None] * len(selection.ids)
        for place, point in zip(places, project(vectors, config.seed).tolist(), strict=True):
            coordinates[place] = point
        space.map = coordinates
    return space


def _from_table(space: Space, store: Store, version: TableVersion, selection: Selection, config: ReportConfig) -> Space:
    """Neighbours as published, without those that are not among the items shown."""
    edges: dict[int, list[tuple[int, int, float]]] = defaultdict(list)
    ids = pc.field("item_id").isin(selection.ids) & pc.field("neighbor_id").isin(selection.ids)
    for batch in store.batches(version, ["item_id", "neighbor_id", "rank", "similarity"], 65536):
        usable = ids & (pc.field("item_id") != pc.field("neighbor_id")) & pc.is_finite(pc.field("similarity"))
        for row in batch.filter(usable).to_pylist():
            neighbor = selection.number[row["neighbor_id"]]
            edges[selection.number[row["item_id"]]].append((row["rank"], neighbor, row["similarity"]))
    for place in range(len(selection.ids)):
        best = sorted(edges[place])[: config.neighbors]
        space.near.append([neighbor for _, neighbor, _ in best])
        space.cosine.append([round(similarity * 100) for *_, similarity in best])
    return space


def _vectors(store: Store, version: TableVersion, selection: Selection) -> tuple[list[int], Floats]:
    """Places and vectors of the items shown that have one; of trained embeddings only the trained part."""
    places: list[int] = []
    parts: list[Floats] = []
    wanted = polars.col("item_id").is_in(selection.ids) & polars.col("embedding").is_not_null()
    for name in sorted(version.files):
        with store.fs.open(f"{store.inside(version.path)}/{name}", "rb") as file:
            frame = polars.read_parquet(file, columns=["item_id", "embedding"]).filter(wanted)
        if len(frame):
            vectors = frame["embedding"].to_numpy().astype(np.float32).reshape(len(frame), -1)
            usable = np.isfinite(vectors).all(axis=1)
            places.extend(selection.number[item] for item in frame["item_id"].filter(polars.Series(usable)))
            parts.append(vectors[usable])
    whole = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
    return places, whole[:, : trained_width(version.lineage, whole.shape[1])]


def _encoder(version: TableVersion) -> str:
    return shown(version.lineage.get("cm3.encoder", ""), 60)
