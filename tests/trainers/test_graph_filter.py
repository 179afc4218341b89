"""The graph filter is its formula, whatever the order of the rows, and is a part of the published dot product."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import svds

from schemas.training import CM3Config, GraphFilterConfig
from tests.support.world import World, draw_world
from trainers.cm3.train import build
from trainers.data import Dataset, load
from trainers.evaluation import evaluate
from trainers.fit import fit
from trainers.graph_filter import filter_embeddings, graph_filter
from trainers.scores import FILTER_WEIGHTS, Embeddings, embedding_scorer, published_embeddings


def dense(dataset: Dataset, rank: int, noise: float) -> np.ndarray:
    """The docstring's formula by a full eigendecomposition."""
    r = dataset.matrix("train").toarray().astype(np.float64)
    users, items = (np.maximum(r.sum(axis=axis), 1) for axis in (1, 0))
    n = r / np.sqrt(users)[:, None] / np.sqrt(items)
    values, vectors = np.linalg.eigh(n.T @ n)
    kept, leading = values[-rank:], vectors[:, -rank:]
    scores = n @ (leading * (kept / (kept + noise))) @ leading.T * np.sqrt(r.sum(axis=0))
    length = np.linalg.norm(scores, axis=1, keepdims=True)
    return np.divide(scores, length, out=np.zeros_like(scores), where=length > 1e-12)


@pytest.mark.parametrize(("rank", "noise"), [(5, 0.02), (12, 0.0), (39, 0.3)])
def test_scores_are_the_dense_formula(world: World, rank: int, noise: float) -> None:
    dataset = load(**world.inputs())
    scores = graph_filter(dataset, GraphFilterConfig(rank=rank, noise=noise))(np.arange(len(dataset.users))).numpy()
    np.testing.assert_allclose(scores, dense(dataset, rank, noise), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(scores, axis=1), 1, atol=1e-5)


def test_permuted_rows_give_permuted_scores() -> None:
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, (30, 20), (300, 2)), axis=0)
    none = np.zeros((0, 2), np.int64)
    names = [str(u) for u in range(30)], [str(i) for i in range(20)]
    order = rng.permutation(20)
    plain = Dataset(*names, pairs, none, none, {}, None)
    moved = Dataset(*names, np.stack([pairs[:, 0], np.argsort(order)[pairs[:, 1]]], axis=1), none, none, {}, None)
    config, users = GraphFilterConfig(rank=6), np.arange(30)
    np.testing.assert_allclose(
        graph_filter(moved, config)(users), graph_filter(plain, config)(users)[:, order], atol=1e-5
    )


def test_one_user_or_one_item_leaves_no_direction_and_no_failure() -> None:
    none = np.zeros((0, 2), np.int64)
    dataset = Dataset(["u"], ["a", "b", "c"], np.array([[0, 0], [0, 1]]), none, none, {}, None)
    users, items = filter_embeddings(dataset, GraphFilterConfig())
    assert (users.shape, items.shape) == ((1, 0), (3, 0))


def test_the_filter_is_coordinates_of_the_dot_product(tmp_path: Path) -> None:
    world = draw_world()
    world.events.append(("new", "i001", "test"))
    dataset = load(**world.write(tmp_path).inputs())
    vectors = Embeddings(torch.randn(len(dataset.users), 3), torch.randn(len(dataset.items), 3))
    part = GraphFilterConfig(rank=7)
    users, items = published_embeddings(vectors, dataset, CM3Config(popularity_prior=0, filter_weight=2.5, filter=part))
    assert users.shape[1] == items.shape[1] == 3 + 7
    known = np.array([name != "new" for name in dataset.users])
    cosine = torch.cosine_similarity(vectors.users[:, None], vectors.items[None], dim=-1)
    expected = cosine + 2.5 * graph_filter(dataset, part)(np.arange(len(dataset.users)))
    torch.testing.assert_close((users @ items.T)[known], expected[known])
    torch.testing.assert_close(users[~known][0], users[known].mean(0))


def test_a_solver_that_turns_directions_round_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, config = load(**world.inputs()), GraphFilterConfig(rank=7)
    expected = filter_embeddings(dataset, config)
    solve = svds

    def turned(*arguments: Any, **named: Any) -> Any:
        left, values, right = solve(*arguments, **named)
        signs = np.array([1, -1, -1, 1, -1, 1, -1])
        return left * signs, values, right * signs[:, None]

    monkeypatch.setattr("trainers.graph_filter.svds", turned)
    for found, part in zip(filter_embeddings(dataset, config), expected, strict=True):
        np.testing.assert_array_equal(found, part)


def test_validation_chooses_the_weight_and_the_width_does_not_depend_on_it(world: World) -> None:
    dataset = load(**world.inputs())
    config = CM3Config(dim=4, max_epochs=2, filter=GraphFilterConfig(rank=6))
    fitted = fit(build(dataset, config), dataset, config)

    def judged(weight: float) -> float:
        scorer = embedding_scorer(fitted.embeddings, dataset, config, weight)
        return evaluate(scorer, dataset, "valid", config.evaluation).values["ndcg", 20]

    values = {weight: judged(weight) for weight in (0.0, *FILTER_WEIGHTS)}
    assert fitted.validation == max(values.values()) == values[fitted.filter_weight]
    assert len(set(values.values())) > 1
    widths = {published_embeddings(fitted.embeddings, dataset, config, w).items.shape[1] for w in (None, 0.0, 3.0)}
    assert widths == {3 * 4 + 1 + 6}
