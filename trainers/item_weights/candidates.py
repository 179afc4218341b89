"""Which items may speak for an item: those most often chosen with it, and those most alike in content."""

import copy

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from trainers.data import Modality
from trainers.item_weights.nearest import Floats, Rows, nearest

ROWS = 8192
"""Vectors that are centred at once."""
ROUNDING = np.float32(1e-6)
"""A vector that is as near to the mean, in its own lengths, says nothing."""


def content_of(features: dict[str, Modality], shares: dict[str, float], centre: Rows | None = None) -> Floats:
    """One vector per item whose dot products are the mean of the features' cosines by their shares, (items, width).

    A feature is centred, so that what all items have in common says nothing. Of an item that lacks a feature the others
    count alone; rows have length 1, or 0 where the item has none of them, or nothing but what all have in common.

    Args:
        centre: rows of the items whose mean is taken off; all where None.
    """
    chosen = [(features[name], np.float32(np.sqrt(share))) for name, share in shares.items()]
    content = np.empty((len(chosen[0][0].matrix), sum(feature.matrix.shape[1] for feature, _ in chosen)), np.float32)
    means = [_mean(feature, centre) for feature, _ in chosen]
    for start in range(0, len(content), ROWS):
        rows = slice(start, start + ROWS)
        parts = []
        for (feature, root), mean in zip(chosen, means, strict=True):
            centred = (feature.matrix[rows] - mean).astype(np.float32)
            centred[~feature.present[rows]] = 0
            lengths = np.linalg.norm(feature.matrix[rows], axis=1, keepdims=True)
            parts.append(root * _unit(centred, least=ROUNDING * lengths))
        content[rows] = _unit(np.concatenate(parts, axis=1))
    return content


def _mean(feature: Modality, centre: Rows | None) -> NDArray[np.float64]:
    """Of the vectors of the items that have one, (width,); 0 where none has."""
    counted = feature.present.copy()
    if centre is not None:
        counted[np.setdiff1d(np.arange(len(counted)), centre)] = False
    total = np.zeros(feature.matrix.shape[1])
    for start in range(0, len(counted), ROWS):
        rows = slice(start, start + ROWS)
        total += feature.matrix[rows][counted[rows]].sum(axis=0, dtype=np.float64)
    mean: NDArray[np.float64] = total / max(1, counted.sum())
    return mean


def _unit(rows: Floats, least: Floats | float = 0.0) -> Floats:
    """Rows of length 1; zeros where they are no longer than `least`."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: Floats = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > least)
    return units


class Candidates:
    """The candidates of some items of a catalogue.

    Args:
        interactions: (users, items), ones.
        content: `content_of` the items, (items, width).
        items: rows of the items whose candidates are asked for, ascending.
        each: length of either list.
        among: rows of the items that may be candidates for their content, ascending; all where None.

    Attributes:
        users: of each item, (items, users).
        width: the most candidates that an item can have.
    """

    def __init__(
        self, interactions: sp.csr_matrix, content: Floats, items: Rows, each: int, among: Rows | None = None
    ) -> None:
        self.interactions, self.users = interactions, interactions.T.tocsr()
        self.content, self.items, self.each = content, items, each
        self.roots = np.sqrt(np.diff(self.users.indptr))
        # One more, since the nearest is most often the item itself.
        self.alike = nearest(content, items, np.arange(len(content)) if among is None else among, each + 1)
        self.width = each + self.alike.shape[1]

    def part(self, start: int, end: int) -> "Candidates":
        """Those of the items at these places alone."""
        part = copy.copy(self)
        part.items, part.alike = self.items[start:end], self.alike[start:end]
        return part

    def of(self, place: int) -> Rows:
        """The candidates of `items[place]`: item rows, ascending, none twice, never the item itself.

        Two lists, not one mixed ranking: content that says little would push out the items that were chosen together.
        """
        item, alike = int(self.items[place]), self.alike[place]
        both = np.union1d(self._chosen_together(item), alike[alike >= 0])
        candidates: Rows = both[both != item]
        return candidates

    def _chosen_together(self, item: int) -> Rows:
        """The `each` with the most common users over the root of both items' users; of equal ones the first rows."""
        common = self.interactions[_row(self.users, item)].indices
        others, counts = np.unique(common, return_counts=True)
        rows: Rows = others[others != item].astype(np.int64)
        counts = counts[others != item]
        if len(rows) <= self.each:
            return rows
        strength = counts / self.roots[rows]  # the item's own root is the same for all
        cut = np.partition(strength, -self.each)[-self.each]
        above = np.flatnonzero(strength > cut)
        equal = np.flatnonzero(strength == cut)[: self.each - len(above)]
        strongest: Rows = rows[np.concatenate([above, equal])]
        return strongest


def _row(matrix: sp.csr_matrix, row: int) -> NDArray[np.int32]:
    """The columns of one row's entries."""
    columns: NDArray[np.int32] = matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]
    return columns
