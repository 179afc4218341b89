"""Parquet tables → what a recommender trains on: row numbers for ids, pairs by split, aligned feature matrices."""

import hashlib
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar, cast

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import scipy.sparse as sp
from numpy.typing import NDArray

from schemas.errors import TooFewInteractionsError, UserError
from schemas.training import TrainingTables

SPLITS = ("train", "valid", "test")
Config = TypeVar("Config", bound=Hashable)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Modality:
    """One feature, aligned with the items: `matrix` (items, width) float32, zero rows where `present` is false."""

    name: str
    matrix: NDArray[np.float32]
    present: NDArray[np.bool_]


@dataclass(frozen=True)
class Neighbors:
    """The similarity table in row numbers: parallel arrays, one entry per pair (item, neighbour), without self-pairs.

    `cosine[name]` is float32, NaN where either item lacks that feature.
    """

    item: NDArray[np.int64]
    neighbor: NDArray[np.int64]
    cosine: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Dataset:
    """Users and items in ascending order of their ids, so that the order of the input's rows never matters.

    `train`, `valid`, `test`: (pairs, 2) int64, columns user row and item row, sorted, no pair twice.
    """

    users: list[str]
    items: list[str]
    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    test: NDArray[np.int64]
    features: dict[str, Modality]
    neighbors: Neighbors | None

    def pairs(self, split: str) -> NDArray[np.int64]:
        """The pairs of "train", "valid" or "test"."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[split]

    def matrix(self, split: str = "train") -> sp.csr_matrix:
        """The split's interactions as a (users, items) CSR matrix of float32 ones, columns sorted."""
        pairs = self.pairs(split)
        ones = np.ones(len(pairs), np.float32)
        return sp.csr_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(len(self.users), len(self.items)))

    def core(self) -> "Dataset":
        """The items that somebody chose, in any split: those that a model is trained on and judged among.

        Where other items fall away, the neighbours are left to the trainer: the similarity table's may be among them.
        """
        chosen = np.unique(np.concatenate([self.train[:, 1], self.valid[:, 1], self.test[:, 1]]))
        if len(chosen) == len(self.items):
            return self
        row = np.full(len(self.items), -1)
        row[chosen] = np.arange(len(chosen))
        splits: dict[str, Any] = {
            split: np.stack([self.pairs(split)[:, 0], row[self.pairs(split)[:, 1]]], axis=1) for split in SPLITS
        }
        features = {name: Modality(name, m.matrix[chosen], m.present[chosen]) for name, m in self.features.items()}
        items = [self.items[row] for row in chosen]
        return replace(self, items=items, features=features, neighbors=None, **splits)

    def all_for_training(self) -> "Dataset":
        """Every interaction in `train`, none held out."""
        pairs = np.unique(np.concatenate([self.train, self.valid, self.test]), axis=0)
        none = np.zeros((0, 2), np.int64)
        return replace(self, train=pairs, valid=none, test=none)

    def rows_of(self, items: Collection[str]) -> NDArray[np.int64]:
        """Rows of these items, ascending; ids of no item are passed over."""
        return np.flatnonzero(pc.is_in(pa.array(self.items, pa.string()), pa.array(sorted(items), pa.string())))

    @cached_property
    def item_counts(self) -> NDArray[np.int64]:
        """Training interactions of each item, (items,)."""
        return np.bincount(self.train[:, 1], minlength=len(self.items))

    def derived(self, function: Callable[["Dataset", Config], Result], config: Config) -> Result:
        """`function(self, config)`, computed once per function and configuration."""
        results = self._derived.setdefault(function, {})
        if config not in results:
            results[config] = function(self, config)
        return cast(Result, results[config])

    @cached_property
    def _derived(self) -> dict[Callable[..., Any], dict[Any, Any]]:
        return {}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all attributes: equal data, however stored, gives equal fingerprints."""
        digest = hashlib.sha256()
        for ids in (self.users, self.items):
            digest.update("\0".join(ids).encode() + b"\1")
        arrays: list[NDArray[Any]] = [self.train, self.valid, self.test]
        for name in sorted(self.features):
            digest.update(name.encode())
            arrays += [self.features[name].matrix, self.features[name].present]
        if self.neighbors is not None:
            digest.update(b"neighbors" + "\0".join(sorted(self.neighbors.cosine)).encode())
            arrays += [self.neighbors.item, self.neighbors.neighbor]
            arrays += [self.neighbors.cosine[name] for name in sorted(self.neighbors.cosine)]
        for array in arrays:
            digest.update(str((array.shape, array.dtype)).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def modality_shares(weights: Mapping[str, float] | None, features: Iterable[str]) -> dict[str, float]:
    """The share of each feature where several are mixed; equal ones where `weights` is None.

    Raises: UserError: `weights` does not name exactly the features, or has no sum.
    """
    names = list(features)
    if weights is None:
        return dict.fromkeys(names, 1.0)
    if set(weights) != set(names) or not all(share >= 0 for share in weights.values()) or not sum(weights.values()):
        raise UserError(
            f"modality_weights: expected a share (≥ 0, not all 0) for each of {sorted(names)}, found {dict(weights)}"
        )
    return dict(weights)


def load(tables: TrainingTables) -> Dataset:
    """Read the tables and number their users and items.

    The items are those with an interaction or with at least one feature vector; a zero vector counts as absent.

    Raises:
        UserError: a table cannot be read or lacks a column, an id comes twice, a vector is not finite, or too little
            is left to train on.
    """
    events = read_table(tables.interactions, ("user_id", "item_id", "split"))
    vectors = {name: _read_vectors(name, uri) for name, uri in sorted(tables.features.items())}
    users = sorted(pc.unique(events["user_id"]).to_pylist())
    ids = set(pc.unique(events["item_id"]).to_pylist())
    items = sorted(ids.union(*(names for names, _ in vectors.values())))
    user_row = _index(events["user_id"], users)
    item_row = _index(events["item_id"], items)
    pairs = _split(events, user_row, item_row, tables.interactions)
    similarity = tables.similarity
    neighbors = None if similarity is None else _read_neighbors(similarity, items, tuple(vectors))
    features = {name: _align(name, items, *rows) for name, rows in vectors.items()}
    dataset = Dataset(users, items, pairs["train"], pairs["valid"], pairs["test"], features, neighbors)
    _refuse_too_small(dataset, tables.interactions)
    return dataset


def _refuse_too_small(dataset: Dataset, where: str) -> None:
    counts = {"users": len(dataset.users), "items": len(dataset.items), "training interactions": len(dataset.train)}
    for what, count in counts.items():
        if count < 2:
            raise TooFewInteractionsError(
                f"interactions at {where}: training needs at least 2 {what}, found {count}. "
                "Loosen the k-core filter or bring more data."
            )


def read_table(uri: str, columns: tuple[str, ...]) -> pa.Table:
    """The named columns of a Parquet folder, local or remote."""
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        source = ds.dataset(path, filesystem=filesystem, format="parquet")
        missing = [name for name in columns if name not in source.schema.names]
        if missing:
            raise UserError(f"table at {uri}: expected columns {list(columns)}, found {source.schema.names}")
        return source.to_table(columns=list(columns))
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(
            f"table at {uri}: expected a folder of Parquet files, but it cannot be read: {error}"
        ) from error


def _index(column: pa.Array | pa.ChunkedArray, ids: list[str]) -> NDArray[np.int64]:
    """Row number of each id; -1 where it is not among `ids`."""
    rows = pc.index_in(column, pa.array(ids, pa.string()))
    return np.asarray(rows.fill_null(-1)).astype(np.int64)


def _split(
    events: pa.Table, user_row: NDArray[np.int64], item_row: NDArray[np.int64], where: str
) -> dict[str, NDArray[np.int64]]:
    """Sorted, unique pairs of each split; a pair in several splits stays in the earliest."""
    split = events["split"].to_numpy(zero_copy_only=False)
    unknown = sorted(set(split.tolist()) - set(SPLITS))
    if unknown:
        raise UserError(f"interactions at {where}: expected split to be one of {SPLITS}, found {unknown[:3]}")
    width = int(item_row.max(initial=0)) + 1
    keys = user_row * width + item_row
    earlier = np.zeros(0, np.int64)
    pairs = {}
    for name in SPLITS:
        unique = np.setdiff1d(keys[split == name], earlier)
        earlier = np.union1d(earlier, unique)
        pairs[name] = np.stack([unique // width, unique % width], axis=1)
    return pairs


def _read_vectors(name: str, uri: str) -> tuple[list[str], NDArray[np.float32]]:
    """Ids of the items that have the feature, and their vectors (rows in that order)."""
    table = read_table(uri, ("item_id", "embedding"))
    dtype = table.schema.field("embedding").type
    if not pa.types.is_fixed_size_list(dtype):
        raise UserError(f"feature {name!r} at {uri}: expected embedding to be a fixed_size_list, found {dtype}")
    ids = table["item_id"].filter(pc.is_valid(table["embedding"])).to_pylist()
    if len(set(ids)) != len(ids):
        raise UserError(
            f"feature {name!r} at {uri}: expected one row per item, found {len(ids) - len(set(ids))} repeats"
        )
    # flatten() leaves null vectors out.
    numbers = pa.chunked_array([chunk.flatten() for chunk in table["embedding"].chunks], dtype.value_type)
    matrix = numbers.to_numpy().astype(np.float32, copy=False).reshape(len(ids), dtype.list_size)
    wrong = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(wrong):
        raise UserError(f"feature {name!r} at {uri}: item {ids[wrong[0]]!r} has a NaN or infinite number in its vector")
    kept = np.flatnonzero(matrix.any(axis=1))
    return [ids[row] for row in kept], matrix[kept]


def _align(name: str, items: list[str], ids: list[str], vectors: NDArray[np.float32]) -> Modality:
    rows = _index(pa.array(ids, pa.string()), items)
    matrix = np.zeros((len(items), vectors.shape[1]), np.float32)
    matrix[rows] = vectors
    present = np.zeros(len(items), np.bool_)
    present[rows] = True
    return Modality(name, matrix, present)


def _read_neighbors(uri: str, items: list[str], names: tuple[str, ...]) -> Neighbors:
    columns = tuple(f"similarity_{name}" for name in names)
    table = read_table(uri, ("item_id", "neighbor_id", *columns))
    item, neighbor = _index(table["item_id"], items), _index(table["neighbor_id"], items)
    kept = np.flatnonzero((item >= 0) & (neighbor >= 0) & (item != neighbor))
    order = kept[np.lexsort((neighbor[kept], item[kept]))]
    cosine = {}
    for name, column in zip(names, columns, strict=True):
        values = table[column].cast(pa.float32()).fill_null(float("nan"))
        cosine[name] = values.to_numpy().astype(np.float32)[order]
    return Neighbors(item[order], neighbor[order], cosine)
