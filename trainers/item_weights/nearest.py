"""The items nearest to some items in content."""

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Search = Callable[[Floats, int], tuple[Floats, Rows]]
"""Vectors and k → the dot products of the k nearest of each, and their places among what is searched."""

EXACT_UP_TO = 25_000
"""Items among which the nearest are exact."""
FEW = 10_000
"""Items whose nearest are exact among any number: an index would cost more than it saves."""
PROBES = 24
"""Lists of about 4 √n that are searched for an item."""
BLOCK = 16_384


def nearest(content: Floats, items: Rows, among: Rows, k: int) -> NDArray[np.int32]:
    """Rows of the items most alike by the dot product of their content, the nearest first, (items, k or fewer).

    An item can be its own nearest. -1: an item without content has none.

    Args:
        content: of all items, (n, width), rows of length 1 or 0.
        items: rows of the items whose nearest are sought.
        among: rows of the items that are searched.
    """
    k = min(k, len(among))
    if not k or not content.shape[1]:
        return np.full((len(items), k), -1, np.int32)
    faiss.omp_set_num_threads(torch.get_num_threads())  # FAISS may have an OpenMP of its own, with a thread per core
    exact = len(among) <= EXACT_UP_TO or len(items) <= FEW
    index = _exact(content, among) if exact else _lists(content, among)
    rows = np.empty((len(items), k), np.int32)
    for start in range(0, len(items), BLOCK):
        queries = content[items[start : start + BLOCK]]
        _, places = index(queries, k)
        has_content = queries.any(axis=1, keepdims=True)
        rows[start : start + BLOCK] = np.where((places >= 0) & has_content, among[places], -1)
    return rows


def _exact(content: Floats, among: Rows) -> Search:
    searched = content if len(among) == len(content) else content[among]
    return lambda queries, k: faiss.knn(queries, searched, k, faiss.METRIC_INNER_PRODUCT)


def _lists(content: Floats, among: Rows) -> Search:
    """Lists around centres, each vector in bytes: a quarter of the memory, and read faster."""
    count, width = len(among), content.shape[1]
    lists = int(4 * np.sqrt(count))
    index: Any = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(width), width, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.niter, index.cp.seed, index.nprobe = 5, 0, PROBES
    index.train(content[among[:: max(1, count // (lists * 40))]])
    for start in range(0, count, BLOCK):
        index.add(content[among[start : start + BLOCK]])
    return index.search  # type: ignore[no-any-return]
