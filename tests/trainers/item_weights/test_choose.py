"""What choices are judged by: samples no larger than asked for, which reach from the first id to the last."""

import numpy as np

from schemas.training import EvaluationConfig, ItemWeightsConfig
from tests.support.world import dataset_of
from trainers.item_weights.choose import Judge, sample


def test_a_sample_reaches_over_all_rows_and_holds_the_wanted_ones() -> None:
    rows = sample(np.array([6998]), 7000, 4000)
    assert len(np.unique(rows)) == len(rows) == 4000
    assert 6998 in rows
    assert abs((rows < 3500).sum() - (rows >= 3500).sum()) <= 2
    assert sample(np.array([2]), 5, 1).tolist() == [2]
    assert sample(np.array([2]), 5, 5).tolist() == [0, 1, 2, 3, 4]
    assert not len(sample(np.arange(0), 5, 0))


def test_at_most_so_many_users_are_judged_from_the_first_to_the_last() -> None:
    pairs = [(user, 0) for user in range(40)], [(user, 1) for user in range(40)]
    dataset = dataset_of({"train": pairs[0], "valid": pairs[1]}, users=40, items=2)
    users = Judge(dataset, None, EvaluationConfig(), ItemWeightsConfig(judged_users=25)).users
    assert len(users) == 25
    assert (users[0], users[-1]) == (0, 38)
