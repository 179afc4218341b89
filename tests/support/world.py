"""A drawn catalogue: tastes decide both what users choose and what items look like."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.tables import INTERACTIONS, conform, features, similarity
from schemas.training import TrainingTables
from trainers.data import SPLITS, Dataset


@dataclass
class World:
    """Rows in memory and, once written, the paths of their tables."""

    events: list[tuple[str, str, str]]
    vectors: dict[str, dict[str, np.ndarray | None]]
    neighbors: list[tuple[str, str, float, dict[str, float | None]]] | None = None
    interactions: str = ""
    features: dict[str, str] = field(default_factory=dict)
    similarity: str | None = None

    def write(self, folder: Path) -> "World":
        rows = [{"user_id": u, "item_id": i, "split": s, "rating": None, "timestamp": None} for u, i, s in self.events]
        table = pa.Table.from_pylist(rows, schema=INTERACTIONS)
        self.interactions = _write(conform(table, INTERACTIONS), folder / "interactions.parquet")
        for name, vectors in self.vectors.items():
            dim = next((len(v) for v in vectors.values() if v is not None), 4)
            matrix = np.stack([np.zeros(dim, np.float32) if v is None else v for v in vectors.values()])
            missing = pa.array([v is None for v in vectors.values()])
            embedding = pa.FixedSizeListArray.from_arrays(
                pa.array(matrix.astype(np.float32).ravel()), type=features(dim).field("embedding").type, mask=missing
            )
            columns = {"item_id": list(vectors), "content_hash": pa.nulls(len(vectors), pa.string())}
            table = pa.table(columns | {"embedding": embedding, "error": columns["content_hash"]})
            self.features[name] = _write(conform(table, features(dim)), folder / f"{name}.parquet")
        if self.neighbors is not None:
            self._write_neighbors(folder)
        return self

    def _write_neighbors(self, folder: Path) -> None:
        assert self.neighbors is not None
        schema = similarity(tuple(self.vectors))
        records = [
            {"item_id": a, "neighbor_id": b, "rank": 1, "similarity": s}
            | {f"similarity_{name}": by.get(name) for name in self.vectors}
            for a, b, s, by in self.neighbors
        ]
        table = pa.Table.from_pylist(records, schema=schema)
        self.similarity = _write(conform(table, schema), folder / "similarity.parquet")

    @property
    def tables(self) -> TrainingTables:
        """What a training reads of it, once written."""
        return TrainingTables(interactions=self.interactions, features=self.features, similarity=self.similarity)


def draw_world(users: int = 60, items: int = 40, each: int = 12, modalities: int = 2, seed: int = 0) -> World:
    """Users choose items of their own taste nine times as often as others; features show the taste through noise."""
    rng = np.random.default_rng(seed)
    tastes = 4
    of_item, of_user = rng.integers(0, tastes, items), rng.integers(0, tastes, users)
    events = []
    for user in range(users):
        weight = np.where(of_item == of_user[user], 9.0, 1.0) * (1 + np.arange(items) % 5)
        chosen = rng.choice(items, min(each, items), replace=False, p=weight / weight.sum())
        splits = ["valid", "test"] + ["train"] * (len(chosen) - 2)
        events += [(f"u{user:03d}", f"i{item:03d}", split) for item, split in zip(chosen, splits, strict=True)]
    vectors: dict[str, dict[str, np.ndarray | None]] = {}
    for m in range(modalities):
        centre = rng.normal(size=(tastes, 6 + m))
        drawn = centre[of_item] + 0.7 * rng.normal(size=(items, 6 + m))
        missing = {5: 0, 11: 1, 17: None}  # item → the modality it lacks; None: all
        vectors[["image", "text", "caption", "audio", "taste"][m]] = {
            f"i{item:03d}": None if missing.get(item, -1) in (m, None) else drawn[item].astype(np.float32)
            for item in range(items)
        }
    return World(events, vectors)


def dataset_of(pairs: dict[str, list[tuple[int, int]]], users: int, items: int) -> Dataset:
    """A data set of interactions alone: split → pairs of user row and item row."""
    train, valid, test = (np.array(sorted(pairs.get(split, [])), np.int64).reshape(-1, 2) for split in SPLITS)
    names = [f"u{n}" for n in range(users)], [f"i{n}" for n in range(items)]
    return Dataset(*names, train, valid, test, features={}, neighbors=None)


def _write(table: pa.Table, folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "part-00000.parquet")
    return str(folder)
