"""The graph filter is its formula, whatever the order of the rows and the signs of the solver."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import svds

from schemas.training import GraphFilterConfig
from tests.support.world import World, dataset_of
from trainers.data import Dataset, load
from trainers.graph_filter import filter_basis, filter_embeddings, fold_in, graph_filter


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
    dataset = load(world.tables)
    scores = graph_filter(dataset, GraphFilterConfig(rank=rank, noise=noise))(np.arange(len(dataset.users))).numpy()
    np.testing.assert_allclose(scores, dense(dataset, rank, noise), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(scores, axis=1), 1, atol=1e-5)


def test_permuted_rows_give_permuted_scores() -> None:
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, (30, 20), (300, 2)), axis=0)
    order = rng.permutation(20)
    place = np.argsort(order)
    plain = dataset_of({"train": [(user, item) for user, item in pairs]}, users=30, items=20)
    moved = dataset_of({"train": [(user, place[item]) for user, item in pairs]}, users=30, items=20)
    config, users = GraphFilterConfig(rank=6), np.arange(30)
    np.testing.assert_allclose(
        graph_filter(moved, config)(users), graph_filter(plain, config)(users)[:, order], atol=1e-5
    )


def test_one_user_or_one_item_leaves_no_direction_and_no_failure() -> None:
    dataset = dataset_of({"train": [(0, 0), (0, 1)]}, users=1, items=3)
    users, items = filter_embeddings(dataset, GraphFilterConfig())
    assert (users.shape, items.shape) == ((1, 0), (3, 0))


def test_a_solver_that_turns_directions_round_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, config = load(world.tables), GraphFilterConfig(rank=7)
    expected = filter_embeddings(dataset, config)
    solve = svds

    def turned(*arguments: Any, **named: Any) -> Any:
        left, values, right = solve(*arguments, **named)
        signs = np.array([1, -1, -1, 1, -1, 1, -1])
        return left * signs, values, right * signs[:, None]

    monkeypatch.setattr("trainers.graph_filter.svds", turned)
    for actual, part in zip(filter_embeddings(load(world.tables), config), expected, strict=True):
        np.testing.assert_array_equal(actual, part)


def test_folding_in_the_same_data_gives_the_same_vectors_and_a_newcomer_stands_where_their_choices_put_them(
    world: World,
) -> None:
    dataset, config = load(world.tables), GraphFilterConfig(rank=7)
    users, items = filter_embeddings(dataset, config)
    basis, interactions = filter_basis(dataset, config), dataset.matrix("train")
    for actual, expected in zip(fold_in(basis, interactions, config.noise), (users, items), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5)
    again = sp.vstack([interactions, interactions[3], sp.csr_matrix((1, interactions.shape[1]))]).tocsr()
    newcomers = fold_in(basis, again, config.noise)[0][-2:]
    np.testing.assert_allclose(newcomers[0], users[3], atol=1e-5)
    assert not newcomers[1].any()


def test_an_item_that_came_later_is_filtered_like_one_that_the_same_users_chose(world: World) -> None:
    dataset, config = load(world.tables), GraphFilterConfig(rank=39)
    known, interactions = 4, dataset.matrix("train")
    twin = sp.hstack([interactions, interactions[:, [known]], sp.csr_matrix((len(dataset.users), 1))]).tocsr()
    basis = filter_basis(dataset, config)
    items = fold_in(basis._replace(items=np.vstack([basis.items, np.zeros((2, 39), np.float32)])), twin, config.noise)[
        1
    ]
    of_known, of_twin = items[known], items[-2]
    assert of_twin @ of_known / np.linalg.norm(of_twin) / np.linalg.norm(of_known) > 0.9
    assert not items[-1].any()
