"""The features' shares: what says nothing gets none, what says half gets some, and validation never loses by it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from schemas.training import EvaluationConfig, ItemWeightsConfig
from trainers.data import Dataset, Modality
from trainers.item_weights import choose as choose_module
from trainers.item_weights.candidates import Candidates
from trainers.item_weights.choose import SHARES, Choice, choose
from trainers.item_weights.ridge import Ridge

CONFIG = ItemWeightsConfig(candidates=15, alphas=(2.0, 10.0, 50.0), penalties=(10.0, 50.0), kept=(20,))
USERS, ITEMS, TASTES = 500, 250, 20


def shop(seed: int = 0, **noise: float) -> Dataset:
    """Users choose three items, mostly of their own taste; each feature shows the items' tastes through so much noise.

    One interaction of each user is for validation.
    """
    rng = np.random.default_rng(seed)
    of_item, of_user = rng.integers(0, TASTES, ITEMS), rng.integers(0, TASTES, USERS)
    train, valid = [], []
    for user in range(USERS):
        weight = np.where(of_item == of_user[user], 30.0, 1.0)
        first, *others = rng.choice(ITEMS, 3, replace=False, p=weight / weight.sum())
        valid.append((user, first))
        train += [(user, item) for item in others]
    features = {}
    for name, much in noise.items():
        vectors = rng.normal(size=(TASTES, 12))[of_item] + much * rng.normal(size=(ITEMS, 12))
        features[name] = Modality(name, vectors.astype(np.float32), np.ones(ITEMS, np.bool_))
    ids = [f"u{row:03d}" for row in range(USERS)], [f"i{row:03d}" for row in range(ITEMS)]
    return Dataset(*ids, np.array(sorted(train)), np.array(valid), np.zeros((0, 2), np.int64), features, None)


def chosen(dataset: Dataset) -> Choice:
    return choose(dataset, None, EvaluationConfig(), CONFIG, threads=1)


def simple(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> Choice:
    """The choice among all features with equal shares and each alone."""
    with monkeypatch.context() as patch:
        patch.setattr(choose_module, "_climbed", lambda trials, mix, *rest: mix)
        return chosen(dataset)


@pytest.mark.parametrize("seed", range(4))
def test_validation_never_loses_by_shares_and_noise_gets_less_than_what_shows_tastes(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = shop(seed, half=1.5, noise=1e6)
    choice = chosen(dataset)
    assert choice.validation >= simple(dataset, monkeypatch).validation
    assert choice.shares.get("noise", 0.0) < choice.shares["half"] == 1.0


def test_what_shows_less_gets_a_smaller_share_and_validation_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = shop(0, clear=0.7, half=1.5, noise=1e6)
    choice, plain = chosen(dataset), simple(dataset, monkeypatch)
    assert choice.validation > plain.validation
    assert 0 < choice.shares["half"] < choice.shares["clear"] == 1.0
    assert choice.shares.get("noise", 0.0) < choice.shares["half"]
    assert chosen(dataset) == choice


@pytest.mark.parametrize(
    ("noise", "most"), [((1.5,), 4), ((1.5, 1e6), 2 + 1 + 3 + 10), ((0.7, 1.5, 1e6), 3 + 1 + 3 + 15)]
)
def test_each_setting_is_solved_once_and_they_are_few(
    noise: Sequence[float], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved: list[tuple[bytes, Ridge]] = []
    solve = choose_module.solve

    def counting(candidates: Candidates, settings: Sequence[Ridge], threads: int) -> Any:
        solved.extend((candidates.content.tobytes(), setting) for setting in settings)
        return solve(candidates, settings, threads)

    monkeypatch.setattr(choose_module, "solve", counting)
    choice = chosen(shop(**{f"f{place}": much for place, much in enumerate(noise)}))
    assert len(set(solved)) == len(solved) <= most
    assert set(choice.shares.values()) <= {share / most for share in SHARES for most in SHARES if most >= share > 0}


def test_one_feature_has_all() -> None:
    assert chosen(shop(half=1.5)).shares == {"half": 1.0}
