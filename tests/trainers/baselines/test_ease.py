"""EASE is its formula, within the size that its dense weights allow."""

import dataclasses

import numpy as np
import pytest

from schemas.baselines import ContentEASEConfig, EASEConfig
from schemas.errors import UserError
from tests.support.world import World
from trainers.baselines.ease import content_ease, ease
from trainers.data import load
from trainers.item_weights.candidates import content_of


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


def test_content_counts_as_common_users_do(world: World) -> None:
    dataset = load(world.tables)
    shares = {"image": 1.0, "text": 3.0}
    content = content_of(dataset.features, shares).astype(np.float64)
    x = dataset.matrix("train").toarray().astype(np.float64)
    # A user who stands for each number of the content's vectors has chosen that much of each item.
    drawn = np.concatenate([x, np.sqrt(20) * content.T])
    expected = np.zeros_like(x)
    for item in range(x.shape[1]):
        others = np.delete(drawn, item, axis=1)
        weights = np.linalg.solve(others.T @ others + 7 * np.eye(others.shape[1]), others.T @ drawn[:, item])
        expected[:, item] = np.delete(x, item, axis=1) @ weights
    config = ContentEASEConfig(l2=7, alpha=20, modality_weights=shares)
    np.testing.assert_allclose(content_ease(dataset, config)(np.arange(len(x))).numpy(), expected, atol=1e-5)


def test_content_ease_without_a_feature_is_refused(world: World) -> None:
    with pytest.raises(UserError, match="at least 1 feature"):
        content_ease(dataclasses.replace(load(world.tables), features={}), ContentEASEConfig())
