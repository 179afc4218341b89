"""The training pairs in batches, each with an item that its user has not chosen."""

from collections.abc import Iterator

import numpy as np

from trainers.data import Dataset
from trainers.evaluation import Rows


class NegativeSampler:
    """For each training pair an item that its user has not chosen in training, uniform over all such items."""

    def __init__(self, dataset: Dataset) -> None:
        pairs, self.n_items = dataset.train, len(dataset.items)
        self.chosen = np.bincount(pairs[:, 0], minlength=len(dataset.users))
        self.offset = np.concatenate([[0], np.cumsum(self.chosen)])
        place = np.arange(len(pairs)) - self.offset[pairs[:, 0]]
        # Of a user's chosen items p_0 < p_1 < …, p_j has p_j - j items before it that are not chosen: non-decreasing.
        self.width = self.n_items + 1
        self.gaps = pairs[:, 0] * self.width + pairs[:, 1] - place

    def draw(self, users: Rows, rng: np.random.Generator) -> Rows:
        """One item row for each user row; -1 for a user who has chosen every item.

        The r-th item not chosen, r uniform, is r plus the number of chosen items before it: one binary search, no
        rejection.
        """
        left = self.n_items - self.chosen[users]
        r = np.minimum((rng.random(len(users)) * left).astype(np.int64), left - 1)
        before = np.searchsorted(self.gaps, users * self.width + r, side="right") - self.offset[users]
        return np.where(left > 0, r + before, -1)


def batches(
    dataset: Dataset, sampler: NegativeSampler, size: int, rng: np.random.Generator
) -> Iterator[tuple[Rows, ...]]:
    """The training pairs in random order as (users, items, negatives), (size,) each; the last batch may be shorter."""
    pairs = dataset.train[rng.permutation(len(dataset.train))]
    negatives = sampler.draw(pairs[:, 0], rng)
    for start in range(0, len(pairs), size):
        part = slice(start, start + size)
        yield pairs[part, 0], pairs[part, 1], negatives[part]
