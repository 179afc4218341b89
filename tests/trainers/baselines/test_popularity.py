"""Popularity ranks by training interactions."""

import numpy as np

from tests.support.world import dataset_of
from trainers.baselines.popularity import popularity


def test_popularity_ranks_by_training_interactions() -> None:
    dataset = dataset_of({"train": [(0, 2), (1, 2), (2, 1)]}, users=3, items=3)
    assert popularity(dataset)(np.array([0]))[0].argsort(descending=True).tolist() == [2, 1, 0]
