"""What choices are judged by: the figures of whole lists, over samples that reach from the first id to the last."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from schemas.training import EvaluationConfig, ItemWeightsConfig
from tests.support.world import dataset_of, draw_world
from trainers.data import load
from trainers.evaluation import Relevant, Rows, accuracy
from trainers.item_weights import judge
from trainers.item_weights.judge import Judge, sample


@pytest.mark.parametrize("levels", [None, 3], ids=["all scores differ", "many are equal"])
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("few", [judge.FEW, 0], ids=["counted", "sorted"])
def test_figures_are_those_of_ranked_lists(
    tmp_path: Path, levels: int | None, alone: bool, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "FEW", few)
    world, rng = draw_world(users=150, items=90, each=12), np.random.default_rng(2)
    world.events = [  # of two validation items some users' lists hold both
        (user, item, "valid" if place % 12 < 2 else "train") for place, (user, item, _) in enumerate(world.events)
    ]
    dataset = load(world.write(tmp_path).tables)
    scores, weights = rng.normal(size=(150, 90)), rng.normal(size=(90, 90)) * (rng.random((90, 90)) < 0.1)
    if levels:
        scores, weights = np.round(scores), np.round(weights)
    base, table = torch.from_numpy(scores.astype(np.float32)), sp.csr_matrix(weights.astype(np.float32))

    def scorer(rows: Rows) -> torch.Tensor:
        return base[torch.from_numpy(rows)].clone()

    def figure(factor: float) -> float:
        """NDCG@10 of whole lists, by torch's order of equal scores."""
        term = torch.from_numpy((dataset.matrix("train") @ table).toarray()) * np.float32(factor)
        whole = term if alone else base + term
        whole[dataset.train[:, 0], dataset.train[:, 1]] = -torch.inf
        relevant = Relevant(dataset.valid, 90)
        hits = relevant.contains(torch.topk(whole, 10, dim=1).indices.numpy())
        return float(accuracy(hits, relevant.counts, (10,))["ndcg", 10].mean())

    rule = EvaluationConfig(selection_k=10, block=32)
    values = Judge(dataset, None if alone else scorer, rule, ItemWeightsConfig()).values(table, (0.0, 0.3, 0.6))
    assert len(values) == (1 if alone else 3)
    assert list(values.values()) == pytest.approx([figure(factor) for factor in values], rel=1e-12)


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
