"""Chance gives every user a list of its own, the same whoever is asked with it."""

import numpy as np
import torch

from tests.support.world import dataset_of
from trainers.baselines.random_ranking import random_ranking


def test_a_users_random_scores_depend_on_the_user_alone() -> None:
    scorer = random_ranking(dataset_of({"train": [(0, 2), (1, 2), (2, 1)]}, users=3, items=50))
    together = scorer(np.arange(3))
    assert torch.equal(together[1:2], scorer(np.array([1])))
    assert len({tuple(line.argsort().tolist()) for line in together}) == 3
