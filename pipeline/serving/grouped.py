"""Rows of a table grouped by a number, in files that are mapped into memory."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Records = NDArray[np.void]
"""A structured array: one field per column."""
Batch = tuple[NDArray[np.int64], Records]
"""Rows of the table: the number by which each is grouped, and its record."""


class Grouped:
    """The rows of each group, in the order in which they were written."""

    def __init__(self, folder: Path, name: str) -> None:
        self._start = mapped(folder / f"{name}.start.npy")
        self._records = mapped(folder / f"{name}.npy")

    def __getitem__(self, group: int) -> Records:
        """Its records, mapped; none for a group without rows."""
        return self._records[self._start[group] : self._start[group + 1]]


def mapped(path: Path) -> NDArray[Any]:
    """An array of a `.npy` file; its pages are read when they are used, and shared by all processes."""
    return np.asarray(np.load(path, mmap_mode="r"))


def write(folder: Path, name: str, groups: int, dtype: np.dtype[Any], batches: Callable[[], Iterable[Batch]]) -> None:
    """Write rows that come in any order, grouped by their number.

    The rows are read twice: to count, and to put each in its place. Memory: one batch and a number per group.
    """
    start = np.zeros(groups + 1, np.int64)
    for group, _ in batches():
        numbers, counts = np.unique(group, return_counts=True)
        start[numbers + 1] += counts
    np.cumsum(start, out=start)
    free = start[:-1].copy()
    records = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (int(start[-1]),))
    for group, rows in batches():
        order = np.argsort(group, kind="stable")
        numbers, first, counts = np.unique(group[order], return_index=True, return_counts=True)
        place = np.repeat(free[numbers] - first, counts) + np.arange(len(group))
        records[place] = rows[order]
        free[numbers] += counts
    records.flush()
    np.save(folder / f"{name}.start.npy", start)
