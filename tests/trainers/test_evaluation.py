"""The metrics are those of an independent implementation, and of their definitions by hand."""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from schemas.training import EvaluationConfig
from tests.support.world import World, dataset_of
from trainers.baselines.popularity import popularity
from trainers.data import Dataset, load
from trainers.evaluation import Rows, Scorer, evaluate, judge, rank, recommend


def random_scorer(dataset: Dataset, seed: int = 0) -> Scorer:
    scores = np.random.default_rng(seed).random((len(dataset.users), len(dataset.items))).astype(np.float32)
    return lambda users: torch.from_numpy(scores[users])


def listing(dataset: Dataset, scorer: Scorer, masked: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """What ranx calls a run: user → item → score, seen items left out."""
    scores = scorer(np.arange(len(dataset.users))).numpy()
    for split in masked:
        pairs = dataset.pairs(split)
        scores[pairs[:, 0], pairs[:, 1]] = -np.inf
    return {str(u): {str(i): float(s) for i, s in enumerate(row) if np.isfinite(s)} for u, row in enumerate(scores)}


RANX = """
import json, sys
from ranx import Qrels, Run, evaluate
task = json.load(sys.stdin)
metrics = [f"{m}@{k}" for m in ("recall", "precision", "map", "ndcg", "mrr", "hit_rate") for k in task["cutoffs"]]
print(json.dumps([evaluate(Qrels(task["relevant"]), Run(run), metrics, make_comparable=True) for run in task["runs"]]))
"""


def by_ranx(relevant: dict[str, dict[str, int]], runs: list[dict[str, dict[str, float]]]) -> list[dict[str, float]]:
    """ranx in a process of its own, without numba's compiler, which would take minutes for milliseconds of work."""
    task = json.dumps({"relevant": relevant, "runs": runs, "cutoffs": EvaluationConfig().cutoffs})
    done = subprocess.run(
        [sys.executable, "-c", RANX],
        input=task,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
    )
    answer: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.slow
def test_metrics_equal_ranx(world: World) -> None:
    dataset = load(world.tables)
    scorer = random_scorer(dataset)
    relevant: dict[str, dict[str, int]] = {}
    for user, item in dataset.test.tolist():
        relevant.setdefault(str(user), {})[str(item)] = 1
    masks = {False: ("train",), True: ("train", "valid")}
    runs = [{u: line for u, line in listing(dataset, scorer, m).items() if u in relevant} for m in masks.values()]
    for mask_validation, theirs in zip(masks, by_ranx(relevant, runs), strict=True):
        for block in (7, 1024):
            config = EvaluationConfig(mask_validation=mask_validation, block=block)
            ours = evaluate(scorer, dataset, "test", config)
            for name, value in theirs.items():
                metric, k = name.replace("hit_rate", "hr").split("@")
                assert ours.values[metric, int(k)] == pytest.approx(value, abs=1e-9), name
                assert ours.counts[metric, int(k)] == len(relevant)


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
