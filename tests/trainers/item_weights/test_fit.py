"""Catalogues that say little give a column without entries or a clear error, never NaN; how loudly cold items speak."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from schemas.errors import TooFewInteractionsError, UserError
from schemas.training import EvaluationConfig, ItemWeightsConfig
from tests.support.world import draw_world
from trainers.data import Dataset, Modality, load
from trainers.item_weights.candidates import content_of
from trainers.item_weights.choose import choose
from trainers.item_weights.fit import item_weights, lenders_weight
from trainers.item_weights.term import choose_weights

ITEMS = 12
CONFIG = ItemWeightsConfig(alphas=(0.0, 5.0), penalties=(1.0, 20.0))


def shop(users: int = 40, items: int = ITEMS) -> Dataset:
    """Each user chose about a third of the items, one more later; all items have content."""
    rng = np.random.default_rng(0)
    pairs = np.argwhere(rng.random((users, items)) < 1 / 3)
    later = np.stack([np.arange(users), rng.integers(0, items, users)], axis=1)
    later = later[~(later[:, None] == pairs).all(axis=2).any(axis=1)]
    feature = Modality("text", rng.normal(size=(items, 4)).astype(np.float32), np.ones(items, np.bool_))
    ids = [f"u{row:02d}" for row in range(users)], [f"i{row:02d}" for row in range(items)]
    return Dataset(*ids, pairs, later, np.zeros((0, 2), np.int64), {"text": feature}, None)


def weights_of(dataset: Dataset, config: ItemWeightsConfig = CONFIG) -> sp.csr_matrix:
    _, weights = choose_weights(dataset, None, config, EvaluationConfig())
    assert np.isfinite(weights.data).all()
    return weights


def with_content(dataset: Dataset, rows: slice) -> Dataset:
    """Only these items have content."""
    text = dataset.features["text"]
    present = np.zeros(len(dataset.items), np.bool_)
    present[rows] = True
    matrix = np.where(present[:, None], text.matrix, np.float32(0))
    return dataclasses.replace(dataset, features={"text": Modality("text", matrix, present)})


def test_an_item_that_shares_neither_users_nor_content_has_no_weights() -> None:
    dataset = with_content(shop(), slice(0, ITEMS - 1))
    others = dataset.train[(dataset.train[:, 1] < ITEMS - 1) & (dataset.train[:, 0] > 0)]
    alone = dataclasses.replace(dataset, train=np.concatenate([[[0, ITEMS - 1]], others]))
    weights = weights_of(alone)
    assert not weights[:, [ITEMS - 1]].nnz
    assert not weights[[ITEMS - 1]].nnz
    assert weights.nnz


def test_one_user_is_enough() -> None:
    assert weights_of(shop(users=1)).shape == (ITEMS, ITEMS)


@pytest.mark.parametrize("rows", [slice(0, 0), slice(0, ITEMS // 2)], ids=["no item", "half of the items"])
def test_content_of_few_items_leaves_those_chosen_together(rows: slice) -> None:
    weights = weights_of(with_content(shop(), rows))
    assert (weights.getnnz(axis=0) > 0).all()


def test_fewer_items_than_candidates_are_asked_for_all_speak() -> None:
    assert CONFIG.candidates > 3
    weights = weights_of(shop(items=3), CONFIG.model_copy(update={"kept": (20,)}))
    assert weights.getnnz(axis=0).max() <= 2
    assert not weights.diagonal().any()


@pytest.mark.parametrize("length", [1.0, 1e6], ids=["short", "long"])
def test_vectors_that_are_all_the_same_are_no_content(length: float) -> None:
    vector = np.random.default_rng(1).normal(size=4) * length
    feature = Modality("text", np.tile(vector.astype(np.float32), (7, 1)), np.ones(7, np.bool_))
    noise = dataclasses.replace(feature, matrix=np.nextafter(feature.matrix, np.float32(np.inf), dtype=np.float32))
    noise.matrix[:6] = feature.matrix[:6]
    assert not content_of({"text": feature}, {"text": 1.0}).any()
    assert not content_of({"text": noise}, {"text": 1.0}).any(), "rounding is no content either"


def test_without_any_feature_what_is_missing_is_said() -> None:
    with pytest.raises(UserError, match=r"item weights.*at least 1 feature.*found none"):
        weights_of(dataclasses.replace(shop(), features={}))


def test_without_validation_interactions_what_to_do_is_said() -> None:
    with pytest.raises(TooFewInteractionsError, match=r"at least 1 validation.*found 0.*ingest.split"):
        weights_of(dataclasses.replace(shop(), valid=np.zeros((0, 2), np.int64)))


def test_a_penalty_too_small_for_items_with_the_same_users_is_said() -> None:
    dataset = shop()
    twins = dataset.train[dataset.train[:, 1] % 2 == 0]
    twins = np.unique(np.concatenate([twins, twins + np.array([0, 1])]), axis=0)
    config = ItemWeightsConfig(alphas=(0.0,), penalties=(1e-300,))
    with pytest.raises(UserError, match=r"penalties.*1e-300"):
        weights_of(dataclasses.replace(dataset, train=twins), config)


def test_a_sample_decides_how_much_the_lenders_of_cold_items_weigh() -> None:
    dataset = shop(users=60, items=40)
    cold = dataclasses.replace(dataset, train=dataset.train[dataset.train[:, 1] > 0])
    weights = weights_of(cold, CONFIG.model_copy(update={"judged_items": 2, "judged_users": 20}))
    assert weights[:, [0]].nnz
    assert not weights[[0]].nnz


def weight_of_lenders(folder: Path, unsold: int) -> float:
    """The lenders' own weight where each item has so many twins that nobody ever bought."""
    world = draw_world(users=200, items=120, each=14)
    for name, vectors in world.vectors.items():
        twins = {f"unsold-{n}-{item}": vector for n in range(unsold) for item, vector in vectors.items()}
        world.vectors[name] = vectors | twins
    dataset = load(world.write(folder).tables)
    config = ItemWeightsConfig(alphas=(5.0,), penalties=(50.0,))
    choice = choose(dataset, None, EvaluationConfig(), config, threads=1)
    return lenders_weight(dataset, item_weights(dataset, choice, config, threads=1).matrix, choice, config)


def test_much_that_nobody_buys_is_not_pushed_into_the_lists_as_a_few_new_items_are(tmp_path: Path) -> None:
    assert weight_of_lenders(tmp_path / "none", unsold=0) > weight_of_lenders(tmp_path / "many", unsold=1)
