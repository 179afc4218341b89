"""Which blocks of items a search compares, and in what order."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pipeline.similarity.layout import Layout
from pipeline.similarity.vectors import Ints

BLOCK = 1024
"""Items per block: a block of similarities (2 MB in bfloat16) stays in the second-level cache."""


class Pairs(NamedTuple):
    """Compare a block with others, none of them before it: each item may become a neighbour of each other one.

    The blocks of a schedule ascend, so no later step touches this one.
    """

    block: int
    others: Ints


class Probe(NamedTuple):
    """Compare some items, at ascending positions, with a block, whose items may become their neighbours."""

    block: int
    rows: Ints


Schedule = Sequence[Pairs | Probe]
"""No pair of items is compared twice."""


def exact_schedule(bounds: Ints, front: int) -> Sequence[Pairs]:
    """Each pair of blocks, once, of which at least one begins before position `front`.

    Args:
        bounds: see `block_bounds`.
    """
    blocks = len(bounds) - 1
    return [Pairs(block, np.arange(block, blocks)) for block in range(int(np.searchsorted(bounds, front)))]


def block_bounds(layout: Layout, block: int) -> Ints:
    """First position of each block of at most `block` items, and the number of items.

    Items of one block have the same features and belong to the same group.
    """
    pattern = layout.pattern
    changes = np.flatnonzero((np.diff(pattern) != 0) | (np.diff(layout.group) != 0)) + 1
    runs = np.unique(np.r_[0, changes, len(pattern)])
    starts = [np.arange(first, last, block) for first, last in pairwise(runs)]
    return np.array([*np.concatenate([[], *starts]), len(pattern)], np.int64)


def work(step: Pairs | Probe) -> int:
    """A step's cost, in comparisons of a block with a block."""
    return -(-len(step.rows) // BLOCK) if isinstance(step, Probe) else len(step.others)
