"""Pairs that may be among an item's k nearest, kept in bounded memory while blocks of similarities stream by."""

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.similarity.layout import Floats, Ints

UNKNOWN = np.float32(-3.0)
"""A cut below every cosine: the item has not met k others yet."""
CROWDED = 32
"""A block with this many times k candidates an item after compaction is settled by exact scores."""

Score = Callable[[Ints, Ints], Floats]
"""Exact similarity of pairs of positions (rows, columns), float32."""


class Candidates:
    """Candidates of one similarity (a feature's, or the fused one) for all items.

    Similarities come with an error of at most `error`. If `kth` is the k-th largest approximate value an item has met,
    its k-th largest exact one is at least `kth - error`, so an item of its exact top k shows at least `kth - 2 error`:
    that is the item's cut, and nothing below it need be kept. The cut only rises, so threads may offer at once: what
    one chose by a cut that another has raised since is dropped later.

    Args:
        bounds: first position of each block, and the number of items at the end.
        order: (n,) breaks ties of exact scores, the lower the nearer.
        score: exact similarity of pairs.
    """

    def __init__(self, k: int, error: float, bounds: Ints, order: Ints, score: Score) -> None:
        self.k, self.error, self.bounds, self.order, self.score = k, error, bounds, order, score
        self.cut: Floats = np.full(int(bounds[-1]), UNKNOWN, np.float32)
        self._lock = threading.Lock()
        blocks = len(bounds) - 1
        self._pending: list[list[tuple[NDArray[np.int32], NDArray[np.int32], Floats]]] = [[] for _ in range(blocks)]
        self._size = [0] * blocks
        self._limit = [4 * k * int(bounds[b + 1] - bounds[b]) for b in range(blocks)]

    def offer(self, block: int, rows: Ints, columns: Ints, values: Floats) -> None:
        """Keep pairs whose rows lie in `block`: positions and approximate similarities."""
        if not len(rows):
            return
        pairs = rows.astype(np.int32), columns.astype(np.int32), values
        with self._lock:
            self._pending[block].append(pairs)
            self._size[block] += len(rows)
            if self._size[block] > self._limit[block]:
                self._compact(block)

    def raise_cut(self, items: slice | Ints, kth: Floats) -> None:
        """Items at these positions have met k others of approximate similarity at least `kth`."""
        with self._lock:
            self.cut[items] = np.maximum(self.cut[items], kth - np.float32(2 * self.error))

    def finish(self, block: int) -> tuple[Ints, Ints, Floats]:
        """The block's exact top k, by row, then similarity (descending), then order; the block's memory is freed."""
        rows, columns, values = self._join(block)
        rows, columns, values = self._above_cut(rows, columns, values)
        self._pending[block] = []
        return self._settle(rows, columns)

    def _join(self, block: int) -> tuple[Ints, Ints, Floats]:
        parts = self._pending[block]
        if not parts:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        rows, columns, values = (np.concatenate(column) for column in zip(*parts, strict=True))
        return rows.astype(np.int64), columns.astype(np.int64), values

    def _above_cut(self, rows: Ints, columns: Ints, values: Floats) -> tuple[Ints, Ints, Floats]:
        """Raise the cuts by what has gathered, and drop what is below."""
        best = descending(rows, values)
        kth = best[places(rows[best]) == self.k - 1]
        self.cut[rows[kth]] = np.maximum(self.cut[rows[kth]], values[kth] - np.float32(2 * self.error))
        keep = values >= self.cut[rows]
        return rows[keep], columns[keep], values[keep]

    def _compact(self, block: int) -> None:
        rows, columns, values = self._above_cut(*self._join(block))
        width = int(self.bounds[block + 1] - self.bounds[block])
        if len(rows) > CROWDED * self.k * width:
            rows, columns, values = self._settle(rows, columns)
            full = places(rows) == self.k - 1
            self.cut[rows[full]] = np.maximum(self.cut[rows[full]], values[full] - np.float32(self.error))
        self._pending[block] = [(rows.astype(np.int32), columns.astype(np.int32), values)]
        self._size[block] = len(rows)
        self._limit[block] = max(4 * self.k * width, 2 * len(rows))

    def _settle(self, rows: Ints, columns: Ints) -> tuple[Ints, Ints, Floats]:
        """The exact top k among candidates."""
        return top_k(rows, columns, self.score(rows, columns), self.order, self.k)


def top_k(rows: Ints, columns: Ints, values: Floats, order: Ints, k: int) -> tuple[Ints, Ints, Floats]:
    """Each row's k largest values; equal values go to the column that comes first in `order`."""
    best = np.lexsort((order[columns], -values, rows))
    best = best[places(rows[best]) < k]
    return rows[best], columns[best], values[best]


def places(rows: Ints) -> Ints:
    """Place (from 0) of each entry within its run of equal, adjacent `rows`."""
    if not len(rows):
        return np.empty(0, np.int64)
    opens = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
    lengths = np.diff(np.r_[opens, len(rows)])
    return np.arange(len(rows)) - np.repeat(opens, lengths)


def descending(rows: Ints, values: NDArray[np.float32]) -> Ints:
    """Indices that sort by row, then value from large to small: one integer key, several times faster than lexsort."""
    bits = values.view(np.int32).astype(np.int64)
    ascending = np.where(bits < 0, np.int64(-(2**31)) - bits - 1, bits)
    return np.argsort((rows << 33) - ascending)
