"""Hidden items are hidden from everything but the judge, and their two rankings are what they say."""

import numpy as np
import pytest
import torch

from schemas.training import EvaluationConfig
from tests.support.world import World, dataset_of
from trainers.data import load
from trainers.evaluation import Rows
from trainers.hidden_items import hide, judged

ITEMS = 20
# Every item has a user of its own and user 20; items 5 and 15 are hidden. User 5 has chosen nothing else.
TRAIN = [(item, item) for item in range(ITEMS)] + [(20, item) for item in range(ITEMS)] + [(15, 0)]
DATASET = dataset_of({"train": TRAIN, "valid": [(0, 5), (0, 7)], "test": [(1, 5)]}, users=21, items=ITEMS)


def test_one_item_in_ten_leaves_every_split_and_comes_back_as_what_is_to_be_found() -> None:
    hidden = hide(DATASET)
    assert hidden is not None
    assert hidden.items.tolist() == [5, 15]
    assert not np.isin([*hidden.dataset.train[:, 1], *hidden.dataset.valid[:, 1]], hidden.items).any()
    assert hidden.dataset.valid.tolist() == [[0, 7]]
    # User 5, of whom nothing is left, is not judged; the hidden choices of all splits are.
    assert hidden.dataset.test.tolist() == [[0, 5], [1, 5], [15, 15], [20, 5], [20, 15]]


def test_hidden_items_are_ranked_among_all_and_among_each_other() -> None:
    hidden = hide(DATASET)
    assert hidden is not None

    def scorer(users: Rows) -> torch.Tensor:
        # Item 19 is liked best by everyone, then item 5; item 15 comes last.
        scores = torch.arange(ITEMS, dtype=torch.float32).repeat(len(users), 1)
        scores[:, 5], scores[:, 15] = 18.5, -1
        return scores

    rankings = judged(scorer, hidden, EvaluationConfig(cutoffs=(1, 2), selection_k=1))
    # Users 0 and 1 want item 5, user 15 item 15, and user 20, who has chosen all others, both.
    assert rankings["cold"].values["recall", 1] == pytest.approx((0 + 0 + 0 + 0.5) / 4)
    assert rankings["cold"].values["recall", 2] == pytest.approx((1 + 1 + 0 + 1) / 4)
    assert rankings["cold_only"].values["recall", 1] == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert rankings["cold_only"].values["recall", 2] == 1
    assert {metric for metric, _ in rankings["cold"].values} == {"recall", "ndcg"}
    assert rankings["cold"].counts["recall", 1] == 4


def test_where_nobody_could_be_judged_nothing_is_hidden() -> None:
    assert hide(dataset_of({"train": [(0, 0), (1, 1)]}, users=2, items=2)) is None


def test_many_users_are_drawn_evenly(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load(world.tables)
    everyone = hide(dataset)
    monkeypatch.setattr("trainers.hidden_items.MOST_USERS", 7)
    drawn = hide(dataset)
    assert everyone is not None
    assert drawn is not None
    before, after = (np.unique(hidden.dataset.test[:, 0]) for hidden in (everyone, drawn))
    assert 3 < len(after) <= 7
    step = -(-len(before) // 7)
    assert after.tolist() == before[::step].tolist()
