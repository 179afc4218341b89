"""Which items may speak for an item: those most often chosen with it, and those most alike in content."""

from typing import Any

import faiss
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from trainers.data import Modality

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

EXACT_UP_TO = 100_000
"""Items up to which neighbours by content are exact; above, `PROBES` of about 4 √n lists are searched."""
PROBES = 24
NONE = np.iinfo(np.int64).max
"""Stands for no item while rows are sorted, so that it comes last."""


def content_of(features: dict[str, Modality], shares: dict[str, float], centre: Rows | None = None) -> Floats:
    """One vector per item whose dot products are the mean of the features' cosines, (items, width).

    A feature is centred, so that what all items have in common says nothing. Of an item that lacks a feature the others
    count alone; rows have length 1, or 0 where the item has none of them.

    Args:
        centre: rows of the items whose mean is taken off; all where None.
    """
    parts = []
    for name, share in shares.items():
        feature = features[name]
        rows = np.flatnonzero(feature.present)
        rows = rows if centre is None else np.intersect1d(rows, centre)
        mean = feature.matrix[rows].mean(axis=0, dtype=np.float64) if len(rows) else 0.0
        centred = (feature.matrix - mean).astype(np.float32)
        centred[~feature.present] = 0
        parts.append(np.float32(np.sqrt(share)) * _unit(centred))
    return _unit(np.concatenate(parts, axis=1))


def _unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: Floats = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 1e-12)
    return units


class Candidates:
    """The candidates of any items of one catalogue.

    Args:
        gram: how often two items were chosen by the same user, (items, items), symmetric.
        content: `content_of` the items.
        each: length of either list.
    """

    def __init__(self, gram: sp.csr_matrix, content: Floats, each: int) -> None:
        self.gram, self.content, self.each = gram, content, each
        self.counts = gram.diagonal()
        self.index = _index(content)

    def of(self, items: Rows) -> Rows:
        """Item rows for each item, (n, 2 · each): ascending, none twice, never the item itself; -1 after the last.

        Two lists, not one mixed ranking: content that says little would push out the items that were chosen together.
        """
        both = np.concatenate([self._chosen_together(items), self._alike(items)], axis=1)
        both[both == items[:, None]] = NONE
        both.sort(axis=1)
        both[:, 1:][both[:, 1:] == both[:, :-1]] = NONE
        both.sort(axis=1)
        return np.where(both == NONE, -1, both)

    def _chosen_together(self, items: Rows) -> Rows:
        """By the number of common users over the root of both items' users, (n, each)."""
        part = self.gram[items]
        line = np.repeat(np.arange(len(items)), np.diff(part.indptr))
        other = part.indices.astype(np.int64)
        strength = part.data / np.sqrt(self.counts[other])  # the item's own root is the same for its whole line
        strength[other == items[line]] = 0
        order = np.lexsort((other, -strength, line))
        place = np.arange(len(order)) - part.indptr[line]
        first = (place < self.each) & (strength[order] > 0)
        rows = np.full((len(items), self.each), NONE)
        rows[line[first], place[first]] = other[order[first]]
        return rows

    def _alike(self, items: Rows) -> Rows:
        """By the cosine of their content, (n, each); none for an item without content."""
        _, nearest = self.index.search(self.content[items], min(self.each + 1, len(self.content)))
        has_content = self.content[items].any(axis=1, keepdims=True)
        rows = np.where((nearest >= 0) & has_content, nearest, NONE)
        rows[rows == items[:, None]] = NONE
        rows.sort(axis=1)  # the item itself, where it was among them, goes last
        return rows


def _index(content: Floats) -> Any:
    count, width = content.shape
    index: Any = faiss.IndexFlatIP(width)
    if count > EXACT_UP_TO:
        lists = int(4 * np.sqrt(count))
        index = faiss.IndexIVFFlat(index, width, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.niter, index.cp.seed = 10, 0
        index.train(content[:: max(1, count // (lists * 64))])
        index.nprobe = PROBES
    index.add(content)
    return index
