"""Items laid out for the search: those that have the same features stand together, and each feature is one matrix.

An item's *position* is its place in the layout; its *order* is its place among the sorted item ids, which breaks ties.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.similarity.vectors import FeatureTable, Floats, Ints, item_ids, usable

PAIRS_AT_ONCE = 256
"""Pairs scored together: two float64 copies of this many rows stay in the processor's cache, and are small enough for
the allocator to keep (at 512 rows of 384 numbers it may return the pages each time, which took five times as long)."""


@dataclass(frozen=True)
class FeatureMatrix:
    """One feature of `n` items.

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

        The same two vectors give the same bits wherever they stand, so ties are ties and an updated graph equals a
        rebuilt one.
        """
        result = np.full(len(a), np.nan)
        left, right = self.row[a], self.row[b]
        pairs = np.flatnonzero((left >= 0) & (right >= 0))
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            part = pairs[start : start + PAIRS_AT_ONCE]
            i, j = left[part], right[part]
            dots = np.einsum("ij,ij->i", self.matrix[i].astype(np.float64), self.matrix[j].astype(np.float64))
            result[part] = np.clip(dots / (self.norm[i] * self.norm[j]), -1.0, 1.0)
        return result


@dataclass(frozen=True)
class Layout:
    """All items of the feature tables.

    Attributes:
        ids: (n,) item ids in order of position.
        order: (n,) place of each position's id among the sorted ids.
        group: (n,) ascending in position. Where only some items are searched, these are group 0 and the rest group 1;
            where clusters prune the search, twice an item's cluster, and one more if it has not changed.
        pattern: (n,) bit m set where the item has feature m; ascending in position within a group.
    """

    ids: pa.Array
    order: Ints
    pattern: Ints
    group: Ints
    features: tuple[FeatureMatrix, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def front(self) -> int:
        """Number of positions in group 0."""
        return int(np.searchsorted(self.group, 1))

    @cached_property
    def position(self) -> Ints:
        """(n,) position of the item with each order: the inverse of `order`."""
        return np.argsort(self.order)

    @cached_property
    def fused_twin(self) -> Ints:
        """(n,) position of the first item, in item_id order, that has the same vector in every feature.

        An item without any feature has no twin.
        """
        keys = np.stack([self.pattern, *(np.where(f.row >= 0, f.twin, -1) for f in self.features)], axis=1)
        return np.where(self.pattern > 0, first_of_each(keys, self.order), np.arange(len(self)))

    def fused(self, cosines: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Weighted mean over the features that both items have; 0 where those all weigh 0."""
        total = np.zeros(len(cosines[0]))
        weight = np.zeros(len(cosines[0]))
        for feature, cosine in zip(self.features, cosines, strict=True):
            pairs = ~np.isnan(cosine)
            total[pairs] += feature.weight * cosine[pairs]
            weight[pairs] += feature.weight
        return np.divide(total, weight, out=np.zeros(len(total)), where=weight > 0)


def assemble(vectors: Mapping[str, FeatureTable], weights: Mapping[str, float], group: Ints | None = None) -> Layout:
    """Lay out the items of feature tables; null, zero and non-finite vectors count as absent.

    Args:
        vectors: feature name → what `read` gave.
        group: for each of `item_ids(vectors)` the group to lay it out in, from 0; one group where None.
    """
    ids = item_ids(vectors)
    rows = {name: _rows_by_id(ids, table) for name, table in vectors.items()}
    pattern = np.zeros(len(ids), np.int64)
    for bit, row in enumerate(rows.values()):
        pattern |= (row >= 0).astype(np.int64) << bit
    group = np.zeros(len(ids), np.int64) if group is None else group
    order = np.lexsort((pattern, group))
    return Layout(
        ids=ids.take(pa.array(order)),
        order=order,
        pattern=pattern[order],
        group=group[order],
        features=tuple(
            _lay_out(name, weights[name], table.matrix, rows[name][order], order) for name, table in vectors.items()
        ),
    )


def row_norms(matrix: Floats) -> NDArray[np.float64]:
    """Euclidean length of each row, summed in float64 like `FeatureMatrix.cosine`."""
    norms = np.empty(len(matrix))
    for start in range(0, len(matrix), PAIRS_AT_ONCE):
        part = matrix[start : start + PAIRS_AT_ONCE].astype(np.float64)
        norms[start : start + PAIRS_AT_ONCE] = np.sqrt(np.einsum("ij,ij->i", part, part))
    return norms


def first_of_each(keys: Ints, order: Ints) -> Ints:
    """For each row of `keys`, the index of the equal row with the lowest `order`."""
    by_key = np.lexsort((order, *keys.T[::-1]))
    sorted_keys = keys[by_key]
    starts = np.ones(len(keys), bool)
    starts[1:] = (sorted_keys[1:] != sorted_keys[:-1]).any(axis=1)
    first = np.empty(len(keys), np.int64)
    first[by_key] = by_key[np.flatnonzero(starts)[np.cumsum(starts) - 1]] if len(keys) else []
    return first


def _lay_out(name: str, weight: float, matrix: Floats, rows: Ints, order: Ints) -> FeatureMatrix:
    present = np.flatnonzero(rows >= 0)
    in_place = np.array_equal(rows[present], np.arange(len(matrix)))
    laid_out = matrix if in_place else matrix[rows[present]]
    row = np.full(len(rows), -1, np.int64)
    row[present] = np.arange(len(present))
    twin = np.arange(len(rows), dtype=np.int64)
    twin[present] = present[_equal_rows(laid_out, order[present])]
    return FeatureMatrix(name=name, weight=weight, matrix=laid_out, row=row, twin=twin)


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


def _rows_by_id(ids: pa.Array, table: FeatureTable) -> Ints:
    """For each of `ids`, its row in the table's matrix, or -1 where it has no usable vector."""
    where = pc.index_in(ids, value_set=table.ids)
    rows: Ints = where.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    rows[rows >= 0] = np.where(usable(table.matrix)[rows[rows >= 0]], rows[rows >= 0], -1)
    return rows
