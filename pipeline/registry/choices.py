"""What a user's choices say of other items: sums of `item_weights`, and the reasons."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

REASONS = 3
"""Chosen items that are named as reasons of one recommendation, at most."""
Rows = NDArray[np.int64]


class Spoken(NamedTuple):
    """What chosen items say of others: parallel arrays (n,), one entry per pair. Items are numbered in the order of
    their ids."""

    items: Rows
    chosen: Rows
    weights: NDArray[np.float32]


class Ranked(NamedTuple):
    """Items, the best first: their numbers (k,), scores (k,), and the chosen items that weigh most in each, (k, 3), -1
    where there are fewer."""

    items: Rows
    scores: NDArray[np.float64]
    because: Rows


def ranked(spoken: Spoken, k: int, left_out: Rows) -> Ranked:
    """The `k` items with the largest sums of weights, of equal ones the first; fewer where no more have a weight."""
    items, place = np.unique(spoken.items, return_inverse=True)
    scores = np.zeros(len(items))
    np.add.at(scores, place, spoken.weights)
    kept = np.flatnonzero(~np.isin(items, left_out))
    best = kept[np.lexsort((items[kept], -scores[kept]))][:k]
    return Ranked(items[best], scores[best], reasons(spoken, items[best]))


def reasons(spoken: Spoken, items: Rows) -> Rows:
    """The chosen items that speak most for each of `items`, (n, 3), -1 where there are fewer."""
    rows = np.full((len(items), REASONS), -1)
    speaking = np.flatnonzero((spoken.weights > 0) & np.isin(spoken.items, items))
    order = speaking[np.lexsort((spoken.chosen[speaking], -spoken.weights[speaking]))]
    place = {item: number for number, item in enumerate(items.tolist())}
    filled = [0] * len(items)
    for item, chosen in zip(spoken.items[order].tolist(), spoken.chosen[order].tolist(), strict=True):
        row = place[item]
        if filled[row] < REASONS:
            rows[row, filled[row]] = chosen
            filled[row] += 1
    return rows
