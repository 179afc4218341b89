"""Directed edges between items: each item's k nearest, those of items with the same vector, and mutual ones."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.similarity.vectors import Floats, Ints

Score = Callable[[Ints, Ints], Floats]
"""Exact similarity of pairs of positions (rows, columns), float32."""


class Neighbours(NamedTuple):
    """Directed edges from `rows` to `columns`, positions of items.

    Edges that a search gives are sorted by row, then similarity (descending), then the column's order.
    """

    rows: Ints
    columns: Ints
    values: Floats

    def select(self, which: Ints | NDArray[np.bool_] | slice) -> "Neighbours":
        """The edges at these places, or where the mask is true."""
        return Neighbours(self.rows[which], self.columns[which], self.values[which])

    def packed(self) -> "Neighbours":
        """The same with positions in int32, which halves what waits in memory or travels; `concatenate` widens them."""
        return Neighbours(
            cast(Ints, self.rows.astype(np.int32)), cast(Ints, self.columns.astype(np.int32)), self.values
        )


def concatenate(parts: Sequence[Neighbours]) -> Neighbours:
    """One set of edges, in the order of the parts; positions in int64."""
    none = Neighbours(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    return Neighbours(*(np.concatenate(column) for column in zip(none, *parts, strict=True)))


def top_k(edges: Neighbours, order: Ints, k: int) -> Neighbours:
    """Each row's k largest values; equal values go to the column that comes first in `order`."""
    best = np.lexsort((order[edges.columns], -edges.values, edges.rows))
    return edges.select(best[places(edges.rows[best]) < k])


def places(rows: Ints) -> Ints:
    """Place (from 0) of each entry within its run of equal, adjacent `rows`."""
    if not len(rows):
        return np.empty(0, np.int64)
    starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
    lengths = np.diff(np.r_[starts, len(rows)])
    return np.arange(len(rows)) - np.repeat(starts, lengths)


def mutual(edges: Neighbours) -> Neighbours:
    """The edges whose reverse is an edge too."""
    size = int(max(edges.rows.max(initial=0), edges.columns.max(initial=0))) + 1
    return edges.select(np.isin(edges.rows * size + edges.columns, edges.columns * size + edges.rows))


def share_with_twins(edges: Neighbours, twin: Ints, order: Ints, k: int, score: Score) -> Neighbours:
    """The k nearest of every item, from those of the first of its twins: its other twins, and the neighbours' twins.

    Args:
        edges: the k nearest of each item that is the first of its twins, among such items.
        twin: (n,) position of the first item with the same vector.
    """
    if not (twin != np.arange(len(twin))).any():
        return edges
    member = np.lexsort((order, twin))
    leaders, starts, counts = np.unique(twin[member], return_index=True, return_counts=True)
    start, count = (np.zeros(len(twin), np.int64) for _ in range(2))
    start[leaders], count[leaders] = starts, np.minimum(counts, k + 1)

    def members(of: Ints) -> tuple[Ints, Ints]:
        """The first k + 1 twins of each leader, and which entry of `of` each belongs to."""
        owner = np.repeat(np.arange(len(of)), count[of])
        place = np.arange(len(owner)) - np.repeat(np.cumsum(count[of]) - count[of], count[of])
        return member[start[of][owner] + place], owner

    crowded = leaders[counts > 1]
    twins, owner = members(crowded)
    others, edge = members(edges.columns)
    own = score(crowded, crowded)
    row = np.r_[crowded[owner], edges.rows[edge]]
    column, value = np.r_[twins, others], np.r_[own[owner], edges.values[edge]]
    return _for_each_twin(top_k(Neighbours(row, column, value), order, k + 1), twin, order, k)


def _for_each_twin(edges: Neighbours, twin: Ints, order: Ints, k: int) -> Neighbours:
    """Copy each leader's edges to its twins, drop self-loops, keep k."""
    first = np.searchsorted(edges.rows, np.arange(len(twin) + 1))
    lengths = (first[1:] - first[:-1])[twin]
    rows = np.repeat(np.arange(len(twin)), lengths)
    source = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + first[twin][rows]
    copies = Neighbours(rows, edges.columns[source], edges.values[source])
    return top_k(copies.select(copies.rows != copies.columns), order, k)
