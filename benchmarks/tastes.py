"""Interactions of users with planted tastes, drawn at any size in time linear in their number."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # the process that only starts contestants needs no torch
    from trainers.data import Dataset

ITEMS_PER_KIND, KINDS_PER_USER, KIN = 50, 4, 12
"""Each kind has `KIN` others near it; a user likes one kind and some of those near it."""
BY_TASTE = 0.85
"""Share of the interactions that follow taste; the others follow popularity alone."""
NEIGHBORS, CONTENT_NOISE = 9, 1.0


class Size(NamedTuple):
    """Users, items, training interactions, and the width of each feature."""

    users: int
    items: int
    train: int
    widths: dict[str, int]

    def __str__(self) -> str:
        return f"{self.users:,} × {self.items:,} × {self.train:,}"

    def shrunk(self, factor: int) -> "Size":
        """The same data set with a `factor`-th of its users, items and interactions."""
        return Size(self.users // factor, self.items // factor, self.train // factor, self.widths)


def draw(size: Size, seed: int = 0) -> "Dataset":
    """About `size.train` interactions in training, a tenth as many each in validation and test.

    An item belongs to a kind, and its features are its kind's plus noise. A user likes a kind and some near it. Within
    a kind popular items are chosen more often. Neighbours are other items of the same kind.
    """
    from trainers.data import Dataset, Modality, Neighbors

    users, items, train, widths = size
    rng = np.random.default_rng(seed)
    kinds = max(items // ITEMS_PER_KIND, KIN + 1)
    kind = np.arange(items) * kinds // items  # items are sorted by kind, users are not sorted at all
    first = np.searchsorted(kind, np.arange(kinds + 1))
    popularity = 1 / (1 + rng.permutation(items)) ** 0.7
    reach = np.concatenate([[0], np.cumsum(popularity)])
    near = (np.arange(kinds)[:, None] + rng.integers(1, kinds, (kinds, KIN))) % kinds
    home = rng.choice(kinds, users, p=np.diff(reach[first]) / reach[-1])
    liked = np.concatenate([home[:, None], near[home[:, None], rng.integers(0, KIN, (users, KINDS_PER_USER - 1))]], 1)

    activity = rng.lognormal(0, 0.8, users)
    count = 5 + rng.poisson(activity / activity.mean() * max(train * 1.4 / users - 5, 0))
    user = np.repeat(np.arange(users), count)
    wanted = liked[user, rng.integers(0, KINDS_PER_USER, len(user))]
    by_taste = rng.random(len(user)) < BY_TASTE
    low = np.where(by_taste, reach[first[wanted]], 0.0)
    high = np.where(by_taste, reach[first[wanted + 1]], reach[-1])
    item = np.searchsorted(reach, low + (high - low) * rng.random(len(user)), side="right") - 1
    keys = np.unique(user * items + np.minimum(item, items - 1))
    part = rng.random(len(keys))
    splits = [keys[part < 0.8], keys[(part >= 0.8) & (part < 0.9)], keys[part >= 0.9]]
    splits[0] = np.sort(rng.permutation(splits[0])[:train])

    features = {}
    for name, width in widths.items():
        centre = rng.standard_normal((kinds, width), dtype=np.float32)
        own = rng.standard_normal((items, width), dtype=np.float32)
        features[name] = Modality(name, centre[kind] + np.float32(CONTENT_NOISE) * own, np.ones(items, bool))
    row = np.repeat(np.arange(items), NEIGHBORS)
    at, length = first[kind[row]], first[kind[row] + 1] - first[kind[row]]
    neighbor = at + (row - at + 1 + np.tile(np.arange(NEIGHBORS), items)) % length
    cosine = {name: rng.random(len(row), dtype=np.float32) for name in widths}
    return Dataset(
        [f"u{n:08d}" for n in range(users)],
        [f"i{n:08d}" for n in range(items)],
        *(np.stack(np.divmod(part, items), axis=1) for part in splits),
        features,
        Neighbors(row, neighbor, cosine),
    )
