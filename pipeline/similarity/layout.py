"""The feature tables as the search wants them: items laid out by which features they have, one matrix a feature.

An item's *position* is its place in that layout; its *order* is its place among the sorted item ids, which breaks ties.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.store import Store
from schemas.errors import UserError
from schemas.lineage import TableVersion

logger = logging.getLogger(__name__)
READ_ROWS = 8192
PAIRS_AT_ONCE = 256
"""Pairs scored together: two float64 copies of this many rows stay in the processor's cache, and are small enough for
the allocator to keep (at 512 rows of 384 it can give the pages back each time, which took five times as long)."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Raw = tuple[pa.Array, Floats]
"""A feature table as read: ids of all its items, and a (rows, dim) matrix with NaN where the vector is null."""


@dataclass(frozen=True)
class Feature:
    """One modality of `n` items.

    Attributes:
        weight: its share in the fused similarity, not yet normalised.
        matrix: (n_present, dim) float32, as published, in order of position.
        row: (n,) row in `matrix`, -1 where the item lacks this feature.
        twin: (n,) position of the first item, in item_id order, with bitwise the same vector; its own where unique.
    """

    name: str
    weight: float
    matrix: Floats
    row: Ints
    twin: Ints

    @cached_property
    def norm(self) -> NDArray[np.float64]:
        """(n_present,) Euclidean length of each row."""
        return row_norms(self.matrix)

    def cosine(self, a: Ints, b: Ints) -> NDArray[np.float64]:
        """Cosine of items at positions `a` and `b`, pair by pair, summed in float64; NaN where one lacks the feature.

        The same two vectors give the same bits wherever they stand, so ties are ties and a graph that was updated
        equals one that was rebuilt.
        """
        result = np.full(len(a), np.nan)
        left, right = self.row[a], self.row[b]
        known = np.flatnonzero((left >= 0) & (right >= 0))
        for start in range(0, len(known), PAIRS_AT_ONCE):
            part = known[start : start + PAIRS_AT_ONCE]
            i, j = left[part], right[part]
            dots = np.einsum("ij,ij->i", self.matrix[i].astype(np.float64), self.matrix[j].astype(np.float64))
            result[part] = np.clip(dots / (self.norm[i] * self.norm[j]), -1.0, 1.0)
        return result


@dataclass(frozen=True)
class Catalogue:
    """All items of the feature tables.

    Attributes:
        ids: (n,) item ids in order of position.
        order: (n,) place of each position's id among the sorted ids.
        group: (n,) ascending in position. Where only some items are searched they are group 0, the rest group 1; where
            clusters prune the search, an item's cluster.
        pattern: (n,) bit m set where the item has feature m; ascending in position within a group.
    """

    ids: pa.Array
    order: Ints
    pattern: Ints
    group: Ints
    features: tuple[Feature, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def front(self) -> int:
        """Positions in group 0."""
        return int(np.searchsorted(self.group, 1))

    @cached_property
    def position(self) -> Ints:
        """(n,) position of the item with each order: the inverse of `order`."""
        return np.argsort(self.order)

    @cached_property
    def fused_twin(self) -> Ints:
        """(n,) position of the first item, in item_id order, that has the same vector in every feature.

        An item without any feature is nobody's twin.
        """
        keys = np.stack([self.pattern, *(np.where(f.row >= 0, f.twin, -1) for f in self.features)], axis=1)
        return np.where(self.pattern > 0, first_of_each(keys, self.order), np.arange(len(self)))

    def weighted(self, weights: Mapping[str, float]) -> "Catalogue":
        """The same items with other weights."""
        features = tuple(replace(feature, weight=weights[feature.name]) for feature in self.features)
        return replace(self, features=features)

    def fused(self, cosines: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Weighted mean over the features that both items have; 0 where those all weigh 0."""
        total = np.zeros(len(cosines[0]))
        weight = np.zeros(len(cosines[0]))
        for feature, cosine in zip(self.features, cosines, strict=True):
            known = ~np.isnan(cosine)
            total[known] += feature.weight * cosine[known]
            weight[known] += feature.weight
        return np.divide(total, weight, out=np.zeros(len(total)), where=weight > 0)


def presence(store: Store, features: Mapping[str, TableVersion]) -> polars.DataFrame:
    """item_id of all items, sorted, and for each feature whether the item has a usable vector."""
    frames = []
    for name in sorted(features):
        ids, matrix = read(store, features[name])
        frames.append(polars.DataFrame({"item_id": polars.Series(ids, dtype=polars.String), name: usable(matrix)}))
    joined = frames[0]
    for frame in frames[1:]:
        joined = joined.join(frame, on="item_id", how="full", coalesce=True)
    return joined.with_columns(polars.col(*features).fill_null(False)).sort("item_id")


def item_ids(raw: Mapping[str, Raw]) -> pa.Array:
    """Ids of all items of feature tables, sorted."""
    ids = pc.unique(pa.chunked_array([ids for ids, _ in raw.values()], type=pa.string()))
    return ids.take(pc.sort_indices(ids))


def assemble(raw: Mapping[str, Raw], weights: Mapping[str, float], group: Ints | None = None) -> Catalogue:
    """Lay out the items of feature tables; null, zero and non-finite vectors count as absent.

    Args:
        raw: feature name → what `read` gave.
        group: for each of `item_ids(raw)` the group to lay it out in, ascending; one group where None.
    """
    ids = item_ids(raw)
    rows = {name: _rows_by_id(ids, table_ids, matrix) for name, (table_ids, matrix) in raw.items()}
    pattern = np.zeros(len(ids), np.int64)
    for bit, row in enumerate(rows.values()):
        pattern |= (row >= 0).astype(np.int64) << bit
    group = np.zeros(len(ids), np.int64) if group is None else group
    order = np.lexsort((pattern, group))
    return Catalogue(
        ids=ids.take(pa.array(order)),
        order=order,
        pattern=pattern[order],
        group=group[order],
        features=tuple(_lay_out(name, weights[name], raw[name][1], rows[name][order], order) for name in raw),
    )


def row_norms(matrix: Floats) -> NDArray[np.float64]:
    """Euclidean length of each row, summed in float64 like `Feature.cosine`."""
    norms = np.empty(len(matrix))
    for start in range(0, len(matrix), PAIRS_AT_ONCE):
        part = matrix[start : start + PAIRS_AT_ONCE].astype(np.float64)
        norms[start : start + PAIRS_AT_ONCE] = np.sqrt(np.einsum("ij,ij->i", part, part))
    return norms


def first_of_each(keys: Ints, order: Ints) -> Ints:
    """For each row of `keys`, the index of the equal row with the lowest `order`."""
    by_key = np.lexsort((order, *keys.T[::-1]))
    sorted_keys = keys[by_key]
    opens = np.ones(len(keys), bool)
    opens[1:] = (sorted_keys[1:] != sorted_keys[:-1]).any(axis=1)
    first = np.empty(len(keys), np.int64)
    first[by_key] = by_key[np.flatnonzero(opens)[np.cumsum(opens) - 1]] if len(keys) else []
    return first


def _lay_out(name: str, weight: float, matrix: Floats, rows: Ints, order: Ints) -> Feature:
    present = np.flatnonzero(rows >= 0)
    in_place = np.array_equal(rows[present], np.arange(len(matrix)))
    laid_out = matrix if in_place else matrix[rows[present]]
    row = np.full(len(rows), -1, np.int64)
    row[present] = np.arange(len(present))
    twin = np.arange(len(rows), dtype=np.int64)
    twin[present] = present[_equal_rows(laid_out, order[present])]
    return Feature(name=name, weight=weight, matrix=laid_out, row=row, twin=twin)


def _equal_rows(matrix: Floats, order: Ints) -> Ints:
    """For each row the equal row that comes first in `order`. Equal rows have equal norms, so few are compared."""
    norms = row_norms(matrix)
    _, inverse, counts = np.unique(norms, return_inverse=True, return_counts=True)
    suspects = np.flatnonzero(counts[inverse] > 1)
    first = np.arange(len(matrix), dtype=np.int64)
    leaders: dict[bytes, int] = {}
    for index in suspects[np.argsort(order[suspects])]:
        digest = hashlib.sha256(matrix[index].tobytes()).digest()
        first[index] = leaders.setdefault(digest, int(index))
    return first


def _rows_by_id(ids: pa.Array, table_ids: pa.Array, matrix: Floats) -> Ints:
    """For each of `ids`, its row in `matrix`, or -1 where it has none or no usable vector."""
    where = pc.index_in(ids, value_set=table_ids)
    rows: Ints = where.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    rows[rows >= 0] = np.where(usable(matrix)[rows[rows >= 0]], rows[rows >= 0], -1)
    return rows


def read(store: Store, version: TableVersion) -> Raw:
    """One feature table.

    Raises:
        UserError: an item occurs twice.
    """
    ids: list[pa.Array] = []
    matrix: Floats = np.empty((0, 1), np.float32)
    done = unusable = 0
    for batch in store.batches(version, ["item_id", "embedding"], rows=READ_ROWS):
        vectors = batch["embedding"].combine_chunks()
        width = vectors.type.list_size
        numbers = vectors.values[vectors.offset * width : (vectors.offset + len(vectors)) * width]
        block = numbers.to_numpy(zero_copy_only=False).reshape(-1, width)
        if not done:
            matrix = np.empty((version.rows, width), np.float32)
        part = matrix[done : done + len(block)]
        part[:] = block
        unknown = vectors.is_null().to_numpy(zero_copy_only=False)
        part[unknown] = np.nan
        done += len(block)
        unusable += int((~unknown & ~usable(part)).sum())
        ids.append(batch["item_id"].combine_chunks())
    if unusable:
        logger.warning("%s: %s vectors are zero or not finite and count as absent", version.table, f"{unusable:,}")
    pa.default_memory_pool().release_unused()  # else it keeps as much again as the matrix takes
    joined = pa.concat_arrays(ids) if ids else pa.array([], pa.string())
    if len(joined) != pc.count_distinct(joined).as_py():
        raise UserError(
            f"{version.dataset}/{version.table}@{version.version} holds an item more than once; expected one row "
            "an item. Run the extraction again."
        )
    return joined, matrix


def usable(matrix: Floats) -> NDArray[np.bool_]:
    """(rows,) whether a row has a direction: finite throughout and not zero."""
    found: NDArray[np.bool_] = np.empty(len(matrix), bool)
    for start in range(0, len(matrix), READ_ROWS):
        part = matrix[start : start + READ_ROWS]
        found[start : start + READ_ROWS] = np.isfinite(part).all(axis=1) & (part != 0).any(axis=1)
    return found
