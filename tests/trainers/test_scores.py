"""The score's terms are coordinates of the published dot product, and validation chooses the filter's weight."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schemas.training import CM3Config, GraphFilterConfig
from tests.support.world import World, draw_world
from trainers.cm3.build import build
from trainers.data import Dataset, load
from trainers.evaluation import evaluate
from trainers.fit import fit
from trainers.graph_filter import graph_filter
from trainers.scores import FILTER_WEIGHTS, Embeddings, Score


def score_of(**changes: Any) -> Score:
    return Score.of(CM3Config(**changes))


def drawn(dataset: Dataset) -> Embeddings:
    return Embeddings(torch.randn(len(dataset.users), 3), torch.randn(len(dataset.items), 3))


def test_a_user_without_training_gets_the_mean_of_the_others(tmp_path: Path) -> None:
    world = draw_world()
    world.events.append(("new", "i001", "test"))
    dataset = load(world.write(tmp_path).tables)
    new = dataset.users.index("new")
    vectors = drawn(dataset)
    result = score_of(score="dot", popularity_prior=0, filter_weight=0).publish(vectors, dataset)
    others = torch.arange(len(dataset.users)) != new
    torch.testing.assert_close(result.users[new], vectors.users[others].mean(0))
    assert torch.equal(result.users[others], vectors.users[others])


def test_the_popularity_prior_is_a_coordinate_of_the_dot_product(world: World) -> None:
    dataset = load(world.tables)
    vectors = drawn(dataset)
    users, items = score_of(score="cosine", popularity_prior=0.3, filter_weight=0).publish(vectors, dataset)
    cosine = torch.cosine_similarity(vectors.users[:, None], vectors.items[None], dim=-1)
    expected = cosine + 0.3 * torch.log(1 + torch.from_numpy(dataset.item_counts).float())
    torch.testing.assert_close(users @ items.T, expected)


def test_the_filter_is_coordinates_of_the_dot_product(tmp_path: Path) -> None:
    world = draw_world()
    world.events.append(("new", "i001", "test"))
    dataset = load(world.write(tmp_path).tables)
    vectors = drawn(dataset)
    part = GraphFilterConfig(rank=7)
    users, items = score_of(popularity_prior=0, filter_weight=2.5, filter=part).publish(vectors, dataset)
    assert users.shape[1] == items.shape[1] == 3 + 7
    trained = np.array([name != "new" for name in dataset.users])
    cosine = torch.cosine_similarity(vectors.users[:, None], vectors.items[None], dim=-1)
    expected = cosine + 2.5 * graph_filter(dataset, part)(np.arange(len(dataset.users)))
    torch.testing.assert_close((users @ items.T)[trained], expected[trained])
    torch.testing.assert_close(users[~trained][0], users[trained].mean(0))


def test_validation_chooses_the_weight_and_the_width_does_not_depend_on_it(world: World) -> None:
    dataset = load(world.tables)
    config = CM3Config(dim=4, max_epochs=2, filter=GraphFilterConfig(rank=6))
    fitted = fit(build(dataset, config), dataset, config)

    scores = {weight: replace(Score.of(config), filter_weight=weight) for weight in (0.0, *FILTER_WEIGHTS)}

    def judged(score: Score) -> float:
        ranking = evaluate(score.scorer(fitted.embeddings, dataset), dataset, "valid", config.evaluation)
        return ranking.values["ndcg", 20]

    values = {weight: judged(score) for weight, score in scores.items()}
    assert fitted.validation == max(values.values()) == values[fitted.score.filter_weight]
    assert len(set(values.values())) > 1
    widths = {score.publish(fitted.embeddings, dataset).items.shape[1] for score in scores.values()}
    assert widths == {Score.of(config).publish(fitted.embeddings, dataset).items.shape[1]} == {3 * 4 + 1 + 6}


def test_a_score_without_filter_has_no_coordinates_for_it(world: World) -> None:
    dataset = load(world.tables)
    assert score_of(popularity_prior=0, filter_weight=0).publish(drawn(dataset), dataset).items.shape[1] == 3
