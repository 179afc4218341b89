"""Pairs that may be among an item's k nearest, kept in bounded memory while blocks of similarities stream by."""

import threading

import numpy as np
from numpy.typing import NDArray

from pipeline.similarity.edges import Neighbours, Score, concatenate, places, top_k
from pipeline.similarity.vectors import Floats, Ints

NO_CUT = np.float32(-3.0)
"""A cut below every cosine: the item has not met k others yet."""
CROWDED = 32
"""A block that still has this many times k candidates per item after compaction is settled by exact scores."""


class Candidates:
    """Candidates of one similarity (a feature's, or the fused one) for all items.

    Similarities come with an error of at most `error`. If `kth` is the k-th largest approximate value an item has met,
    its k-th largest exact one is at least `kth - error`, so an item of its exact top k shows at least `kth - 2 error`:
    that is the item's cut, and nothing below it need be kept. The cut only rises, so threads may offer at the same
    time: a pair that passed a cut which another thread has raised since is dropped later.

    Args:
        bounds: first position of each block, and the number of items at the end.
        order: (n,) breaks ties of exact scores, the lower the nearer.
        score: exact similarity of pairs.
    """

    def __init__(self, k: int, error: float, bounds: Ints, order: Ints, score: Score) -> None:
        self.k, self.error, self.bounds, self.order, self.score = k, error, bounds, order, score
        self.cut: Floats = np.full(int(bounds[-1]), NO_CUT, np.float32)
        self._lock = threading.Lock()
        blocks = len(bounds) - 1
        self._pending: list[list[Neighbours]] = [[] for _ in range(blocks)]
        self._size = [0] * blocks
        self._limit = [4 * k * int(bounds[b + 1] - bounds[b]) for b in range(blocks)]

    def offer(self, block: int, pairs: Neighbours) -> None:
        """Keep pairs whose rows lie in `block`, with approximate similarities."""
        if not len(pairs.rows):
            return
        packed = pairs.packed()
        with self._lock:
            self._pending[block].append(packed)
            self._size[block] += len(packed.rows)
            if self._size[block] > self._limit[block]:
                self._compact(block)

    def raise_cut(self, items: slice | Ints, kth: Floats) -> None:
        """Items at these positions have met k others of approximate similarity at least `kth`."""
        with self._lock:
            self.cut[items] = np.maximum(self.cut[items], kth - np.float32(2 * self.error))

    def finish(self, block: int) -> Neighbours:
        """The block's exact top k; its candidates are freed."""
        pairs = self._above_cut(concatenate(self._pending[block]))
        self._pending[block] = []
        return self._settle(pairs)

    def _above_cut(self, pairs: Neighbours) -> Neighbours:
        """Raise the cuts by the pairs gathered so far, and drop those below."""
        best = descending(pairs.rows, pairs.values)
        kth = best[places(pairs.rows[best]) == self.k - 1]
        items = pairs.rows[kth]
        self.cut[items] = np.maximum(self.cut[items], pairs.values[kth] - np.float32(2 * self.error))
        return pairs.select(pairs.values >= self.cut[pairs.rows])

    def _compact(self, block: int) -> None:
        pairs = self._above_cut(concatenate(self._pending[block]))
        width = int(self.bounds[block + 1] - self.bounds[block])
        if len(pairs.rows) > CROWDED * self.k * width:
            pairs = self._settle(pairs)
            kth = places(pairs.rows) == self.k - 1
            items = pairs.rows[kth]
            self.cut[items] = np.maximum(self.cut[items], pairs.values[kth] - np.float32(self.error))
        self._pending[block] = [pairs.packed()]
        self._size[block] = len(pairs.rows)
        self._limit[block] = max(4 * self.k * width, 2 * len(pairs.rows))

    def _settle(self, pairs: Neighbours) -> Neighbours:
        """The exact top k among candidates."""
        return top_k(Neighbours(pairs.rows, pairs.columns, self.score(pairs.rows, pairs.columns)), self.order, self.k)


def descending(rows: Ints, values: NDArray[np.float32]) -> Ints:
    """Indices that sort by row, then value from large to small: one integer key, several times faster than lexsort."""
    bits = values.view(np.int32).astype(np.int64)
    ascending = np.where(bits < 0, np.int64(-(2**31)) - bits - 1, bits)
    return np.argsort((rows << 33) - ascending)
