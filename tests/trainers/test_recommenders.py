"""Every recommender trains on the same data by the same loop; unknown names and parameters are refused."""

from typing import Any

import numpy as np
import pytest
import torch

from schemas.errors import UserError
from tests.support.world import World
from trainers.data import load
from trainers.evaluation import evaluate
from trainers.fit import EmbeddingModel
from trainers.recommenders import RECOMMENDERS, recommender

TRAINED = sorted(name for name, entry in RECOMMENDERS.items() if entry.build is not None)
SHORT: dict[str, Any] = {"dim": 16, "max_epochs": 50, "batch_size": 256, "learning_rate": 1e-2, "patience": 50}


@pytest.mark.parametrize("name", TRAINED)
def test_every_trained_recommender_beats_a_random_ranking_and_its_loss_falls(name: str, world: World) -> None:
    dataset = load(world.tables)
    entry = recommender(name)
    config = entry.configure(SHORT)
    losses: list[float] = []
    evaluation = config.evaluation  # type: ignore[union-attr]
    fitted = entry.fit(dataset, config, evaluation, on_epoch=lambda _, terms: losses.append(terms["loss"]))
    scores = np.random.default_rng(0).random((60, 40)).astype(np.float32)
    chance = evaluate(lambda users: torch.from_numpy(scores[users]), dataset, "test", evaluation).values["ndcg", 10]
    assert evaluate(fitted.scorer, dataset, "test", evaluation).values["ndcg", 10] > 1.1 * chance
    assert losses[-1] < losses[0]
    assert fitted.parameters > 0


@pytest.mark.parametrize("name", TRAINED)
def test_one_seed_gives_the_same_vectors(name: str, world: World) -> None:
    dataset = load(world.tables)
    entry = recommender(name)
    config = entry.configure(SHORT | {"max_epochs": 2})
    users = np.arange(5)
    runs = [entry.fit(dataset, config, config.evaluation).scorer(users) for _ in range(2)]  # type: ignore[union-attr]
    assert torch.equal(*runs)


def test_unknown_recommenders_and_parameters_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="lightgcn"):
        recommender("lightgnc")
    with pytest.raises(UserError, match="gama"):
        recommender("cm3").configure({"gama": 0.5})
    with pytest.raises(UserError, match="learning_rate"):
        recommender("bpr").configure({"learning_rate": -1})


def test_every_recommender_is_one_model_with_a_name() -> None:
    for name in TRAINED:
        build = RECOMMENDERS[name].build
        assert build is not None
        if isinstance(build, type):
            assert issubclass(build, EmbeddingModel)
            assert build.name == name
