"""The metrics are those of their definitions."""

import itertools
import math

import numpy as np
import pytest
import torch

from schemas.training import EvaluationConfig
from tests.support.world import World, dataset_of
from trainers.baselines.popularity import popularity
from trainers.data import Dataset, load
from trainers.evaluation import Rows, Scorer, evaluate, judge, rank, recommend, selection


def random_scorer(dataset: Dataset, seed: int = 0) -> Scorer:
    scores = np.random.default_rng(seed).random((len(dataset.users), len(dataset.items))).astype(np.float32)
    return lambda users: torch.from_numpy(scores[users])


def by_definition(relevant: set[int], ranked: list[int], k: int) -> dict[str, float]:
    """One user's metrics, term by term. `python -m benchmarks evaluate` compares ours with ranx and Cornac."""
    hits = [item in relevant for item in ranked[:k]]
    ideal = sum(1 / math.log2(rank + 2) for rank in range(min(k, len(relevant))))
    return {
        "recall": sum(hits) / len(relevant),
        "precision": sum(hits) / k,
        "hr": float(any(hits)),
        "mrr": 1 / (hits.index(True) + 1) if any(hits) else 0.0,
        "map": sum(sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits) if hit) / len(relevant),
        "ndcg": sum(hit / math.log2(rank + 2) for rank, hit in enumerate(hits)) / ideal,
    }


@pytest.mark.parametrize(("most", "step"), [(100, 1), (60, 1), (40, 2), (20, 3)])
def test_choices_are_judged_by_every_nth_user_where_there_are_many(world: World, most: int, step: int) -> None:
    dataset = load(world.tables)
    config, scorer = EvaluationConfig(judged_users=most), random_scorer(dataset)
    everyone = evaluate(scorer, dataset, "valid", config)
    assert len(everyone.users) == 60
    asked = []
    value = selection(lambda rows: asked.append(rows) or scorer(rows), dataset, config)  # type: ignore[func-returns-value]
    assert np.concatenate(asked).tolist() == everyone.users[::step].tolist()
    assert value == pytest.approx(everyone.per_user["ndcg", 20][::step].mean(), rel=1e-12)


@pytest.mark.parametrize("mask_validation", [False, True])
@pytest.mark.parametrize("block", [7, 1024])
def test_metrics_are_the_means_of_their_definitions(world: World, mask_validation: bool, block: int) -> None:
    dataset = load(world.tables)
    scorer = random_scorer(dataset)
    scores = scorer(np.arange(len(dataset.users))).numpy()
    for split in ("train", "valid") if mask_validation else ("train",):
        pairs = dataset.pairs(split)
        scores[pairs[:, 0], pairs[:, 1]] = -np.inf
    relevant: dict[int, set[int]] = {}
    for user, item in dataset.test.tolist():
        relevant.setdefault(user, set()).add(item)
    config = EvaluationConfig(mask_validation=mask_validation, block=block)
    ours = evaluate(scorer, dataset, "test", config)
    for k in config.cutoffs:
        users = [
            by_definition(items, [i for i in np.argsort(-scores[user]).tolist() if np.isfinite(scores[user, i])], k)
            for user, items in relevant.items()
        ]
        for metric in users[0]:
            expected = sum(values[metric] for values in users) / len(users)
            assert ours.values[metric, k] == pytest.approx(expected, abs=1e-9), (metric, k)
            assert ours.counts[metric, k] == len(relevant)


def test_ndcg_of_two_hits_in_three_by_hand() -> None:
    dataset = dataset_of({"train": [(0, 4)], "test": [(0, 0), (0, 2), (0, 3)]}, users=1, items=5)
    scores = torch.tensor([[5.0, 4.0, 3.0, 0.0, 9.0]])  # item 4 was chosen in training: it may not stand first
    result = evaluate(
        lambda users: scores[users].clone(), dataset, "test", EvaluationConfig(cutoffs=(3,), selection_k=3)
    )
    gain, ideal = 1 + 1 / np.log2(4), 1 + 1 / np.log2(3) + 1 / np.log2(4)
    assert result.values["ndcg", 3] == pytest.approx(gain / ideal)
    assert result.values["map", 3] == pytest.approx((1 + 2 / 3) / 3)
    assert result.values["mrr", 3] == 1
    assert result.values["recall", 3] == pytest.approx(2 / 3)


def test_cold_item_groups_count_only_their_own_relevant_items() -> None:
    train = [(u, 0) for u in range(6)] + [(0, 1), (1, 1)]
    dataset = dataset_of({"train": train, "test": [(2, 1), (2, 2), (3, 2), (4, 3)]}, users=6, items=4)
    config = EvaluationConfig(cutoffs=(1,), selection_k=1)
    scores = torch.tensor([[0.0, 0.5, 1.0, 0.1]]).repeat(6, 1)  # item 2, that nobody chose in training, stands first
    result = evaluate(lambda users: scores[users].clone(), dataset, "test", config)
    assert (result.values["recall_train_0", 1], result.counts["recall_train_0", 1]) == (pytest.approx(2 / 3), 3)
    assert (result.values["recall_train_1_4", 1], result.counts["recall_train_1_4", 1]) == (0, 1)
    assert result.counts["recall_train_5_19", 1] == 0


def test_coverage_and_novelty_by_hand() -> None:
    dataset = dataset_of({"train": [(0, 0), (1, 0), (2, 1)], "test": [(0, 2), (1, 2), (2, 2)]}, users=3, items=4)
    scores = torch.tensor([[0.0, 0.0, 2.0, 1.0]]).repeat(3, 1)
    config = EvaluationConfig(cutoffs=(2,), selection_k=2)
    result = evaluate(lambda users: scores[users].clone(), dataset, "test", config)
    assert result.values["coverage", 2] == 2 / 4
    assert result.values["novelty", 2] == pytest.approx(-np.log2(1 / 4))


def test_cut_offs_above_the_number_of_items_are_handled() -> None:
    dataset = dataset_of({"train": [(0, 0)], "test": [(0, 1)]}, users=1, items=2)
    scores = torch.tensor([[0.0, 1.0]])
    result = evaluate(lambda users: scores[users].clone(), dataset, "test", EvaluationConfig())
    assert result.values["recall", 50] == 1
    assert result.values["precision", 50] == 1 / 50


def test_a_split_without_interactions_gives_zeros_over_no_users(world: World) -> None:
    dataset = dataset_of({"train": [(0, 0), (1, 1)]}, users=2, items=3)
    result = evaluate(popularity(dataset), dataset, "test", EvaluationConfig())
    assert result.values["ndcg", 20] == 0
    assert result.counts["ndcg", 20] == 0


def test_the_scorer_is_asked_for_a_block_of_users_at_a_time(world: World) -> None:
    dataset = load(world.tables)
    inner, sizes = random_scorer(dataset), []

    def scorer(users: Rows) -> torch.Tensor:
        sizes.append(len(users))
        return inner(users)

    evaluate(scorer, dataset, "test", EvaluationConfig(block=16))
    assert max(sizes) == 16


@pytest.mark.parametrize("mask_validation", [False, True])
def test_lists_of_everybody_are_judged_as_those_of_a_split_are(world: World, mask_validation: bool) -> None:
    dataset = load(world.tables)
    scorer = random_scorer(dataset)
    config = EvaluationConfig(cutoffs=(5, 10), selection_k=10, mask_validation=mask_validation)
    for split in ("valid", "test"):
        left_out = dataset.matrix("train") + dataset.matrix("valid") if mask_validation and split == "test" else None
        lists = rank(scorer, dataset, 30, left_out=left_out)
        shared, alone = judge(lists, dataset, split, config), evaluate(scorer, dataset, split, config)
        assert shared.values == alone.values
        assert shared.counts == alone.counts
        np.testing.assert_array_equal(shared.users, alone.users)
    assert recommend(lists, dataset, 7).num_rows == 7 * len(dataset.users)


def test_recommendations_leave_out_training_items_and_are_in_order(world: World) -> None:
    dataset = load(world.tables)
    table = recommend(rank(random_scorer(dataset), dataset, k=100, block=13), dataset, k=100)
    chosen = {(dataset.users[u], dataset.items[i]) for u, i in dataset.train}
    rows = table.to_pylist()
    assert not chosen & {(r["user_id"], r["item_id"]) for r in rows}
    assert len(rows) == len(dataset.users) * len(dataset.items) - len(dataset.train)
    for before, after in itertools.pairwise(rows):
        if before["user_id"] == after["user_id"]:
            assert after["rank"] == before["rank"] + 1
            assert after["score"] <= before["score"]
