"""A training says how it finds items that nobody has chosen, without looking at who chose them."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp

from schemas.training import CM3Config, EvaluationConfig, ItemWeightsConfig
from tests.support.world import draw_world
from trainers.cm3.cold import cold_rankings
from trainers.data import Dataset, load
from trainers.hidden_items import hide
from trainers.item_weights.fit import scorer_without
from trainers.item_weights.term import choose_weights

CONFIG = CM3Config(item_weights=ItemWeightsConfig(alphas=(5.0,), penalties=(50.0,)))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    world = draw_world(users=200, items=120, each=14)
    return load(world.write(tmp_path_factory.mktemp("world")).tables)


def test_content_finds_hidden_items_better_than_chance(dataset: Dataset) -> None:
    assert CONFIG.item_weights is not None
    choice, weights = choose_weights(dataset, None, CONFIG.item_weights, EvaluationConfig())
    rankings = cold_rankings(dataset, weights, choice, CONFIG)
    assert rankings.keys() == {"random", "content-knn", "item-weights"}
    recall = {name: by_split["cold_only"].values["recall", 5] for name, by_split in rankings.items()}
    assert recall["random"] == pytest.approx(5 / 12, abs=0.05)
    assert recall["item-weights"] > 1.3 * recall["random"]
    assert recall["content-knn"] > 1.3 * recall["random"]


def test_the_weights_of_hidden_items_do_not_hang_on_who_chose_them(dataset: Dataset) -> None:
    assert CONFIG.item_weights is not None
    hidden = hide(dataset)
    assert hidden is not None
    choice, weights = choose_weights(dataset, None, CONFIG.item_weights, EvaluationConfig())
    users = np.arange(len(dataset.users))
    scores = scorer_without(hidden.dataset, weights, hidden.items, choice, CONFIG.item_weights)(users).numpy()
    assert scores[:, hidden.items].any()
    other = weights.tolil()
    other[:, hidden.items], other[hidden.items] = 7.0, 7.0
    again = scorer_without(hidden.dataset, other.tocsr(), hidden.items, choice, CONFIG.item_weights)(users).numpy()
    np.testing.assert_array_equal(scores, again)


def test_without_weights_content_neighbours_and_chance_are_left(dataset: Dataset) -> None:
    assert CONFIG.item_weights is not None
    choice, weights = choose_weights(dataset, None, CONFIG.item_weights, EvaluationConfig())
    useless = dataclasses.replace(choice, factor=0.0)
    assert cold_rankings(dataset, weights, useless, CONFIG).keys() == {"random", "content-knn"}
    assert cold_rankings(dataset, weights, None, CONFIG).keys() == {"random", "content-knn"}


def test_content_neighbours_of_a_large_catalogue_are_left_out(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.cm3.cold.MOST_ITEMS", 119)
    assert cold_rankings(dataset, sp.csr_matrix((120, 120)), None, CONFIG).keys() == {"random"}
