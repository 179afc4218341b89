"""EASE is its formula, within the size that its dense weights allow."""

import numpy as np
import pytest

from schemas.baselines import EASEConfig
from schemas.errors import UserError
from tests.support.world import World
from trainers.baselines.ease import ease
from trainers.data import load


def test_ease_is_the_ridge_regression_of_each_item_on_the_others(world: World) -> None:
    dataset = load(world.tables)
    x = dataset.matrix("train").toarray().astype(np.float64)
    expected = np.zeros_like(x)
    for item in range(x.shape[1]):
        others = np.delete(x, item, axis=1)
        weights = np.linalg.solve(others.T @ others + 7 * np.eye(others.shape[1]), others.T @ x[:, item])
        expected[:, item] = others @ weights
    scores = ease(dataset, EASEConfig(l2=7))(np.arange(len(x))).numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_ease_refuses_what_its_dense_weights_cannot_hold(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainers.baselines.ease.MOST_ITEMS", 39)
    with pytest.raises(UserError, match=r"at most 39 items .* found 40"):
        ease(load(world.tables), EASEConfig())
