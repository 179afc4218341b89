"""Every baseline trains on the same data by the same loop, and does what its paper says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from schemas.errors import UserError
from schemas.training import ContentKNNConfig, EASEConfig, FREEDOMConfig, LightGCNConfig
from tests.support.world import World, draw_world
from trainers.baselines.collaborative import LightGCN, complete
from trainers.baselines.content_knn import content_knn
from trainers.baselines.ease import ease
from trainers.baselines.multimodal import FREEDOM
from trainers.data import load
from trainers.evaluation import evaluate
from trainers.fit import Batch, EmbeddingModel
from trainers.recommenders import RECOMMENDERS, recommender

TRAINED = sorted(name for name, entry in RECOMMENDERS.items() if entry.build is not None)
SHORT: dict[str, Any] = {"dim": 16, "max_epochs": 80, "batch_size": 256, "learning_rate": 1e-2, "patience": 80}


@pytest.mark.parametrize("name", TRAINED)
def test_every_trained_recommender_beats_a_random_ranking_and_its_loss_falls(name: str, world: World) -> None:
    dataset = load(**world.inputs())
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
    dataset = load(**world.inputs())
    entry = recommender(name)
    config = entry.configure(SHORT | {"max_epochs": 2})
    users = np.arange(5)
    runs = [entry.fit(dataset, config, config.evaluation).scorer(users) for _ in range(2)]  # type: ignore[union-attr]
    assert torch.equal(*runs)


def test_content_neighbours_score_by_likeness_to_the_users_items(tmp_path: Path) -> None:
    world = draw_world()
    world.vectors = {
        "text": {
            "i000": np.array([1.0, 0]),
            "i001": np.array([0.8, 0.6]),
            "i002": np.array([0.6, 0.8]),
            "i003": np.array([0.0, 1]),
        }
    }
    world.events = [("a", "i000", "train"), ("b", "i003", "train"), ("a", "i001", "valid")]
    dataset = load(**world.write(tmp_path).inputs())
    scores = content_knn(dataset, ContentKNNConfig(neighbors=2))(np.arange(2)).numpy()
    # i001's nearest are i002 and i000, i002's are i001 and i003: i000 is not among the latter, however alike.
    np.testing.assert_allclose(scores, [[0, 0.8, 0, 0], [0, 0, 0.8, 0]], atol=1e-6)


def test_lightgcn_is_the_mean_of_its_layers(world: World) -> None:
    dataset = load(**world.inputs())
    model = LightGCN(LightGCNConfig(device="cpu", dim=4, layers=2), dataset)
    x = torch.cat([model.users, model.items])
    first = model.graph.product(x)
    expected = (x + first + model.graph.product(first)) / 3
    torch.testing.assert_close(torch.cat(model.embeddings()), expected)


def test_freedom_drops_its_share_of_edges_and_embeds_with_all_of_them(world: World) -> None:
    dataset = load(**world.inputs())
    model = FREEDOM(FREEDOMConfig(device="cpu", dim=4, edge_dropout=0.75), dataset)
    before = model.embeddings()
    model.begin_epoch(np.random.default_rng(0))
    assert len(model.graph.columns) == 2 * round(len(dataset.train) * 0.25)
    assert torch.equal(model.embeddings().items, before.items)


def test_users_who_have_chosen_every_item_have_no_preference_to_learn() -> None:
    rows = torch.arange(3)
    kept = complete(Batch(rows, rows, torch.tensor([2, -1, 0])))
    assert kept.users.tolist() == [0, 2]


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


def test_ease_is_the_ridge_regression_of_each_item_on_the_others(world: World) -> None:
    dataset = load(**world.inputs())
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
        ease(load(**world.inputs()), EASEConfig())
