"""Item neighbours score by common users, fewer of them by less."""

import numpy as np
import pytest

from schemas.baselines import ItemKNNConfig
from tests.support.world import dataset_of
from trainers.baselines.item_knn import item_knn

# Items 0 and 1 have two users in common, 1 and 2 one; item 3 has a user of its own.
TRAIN = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize("shrinkage", [0.0, 3.0])
def test_an_items_score_is_its_shrunk_cosine_to_what_the_user_chose(shrinkage: float) -> None:
    dataset = dataset_of({"train": TRAIN}, users=4, items=4)
    scores = item_knn(dataset, ItemKNNConfig(shrinkage=shrinkage))(np.arange(4)).numpy()
    of_01, of_12 = 2 / (np.sqrt(2 * 3) + shrinkage), 1 / (np.sqrt(3 * 1) + shrinkage)
    expected = [[of_01, of_01, of_12, 0], [of_01, of_01, of_12, 0], [of_01, of_12, of_12, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_only_an_items_nearest_neighbours_count() -> None:
    dataset = dataset_of({"train": TRAIN}, users=4, items=4)
    scores = item_knn(dataset, ItemKNNConfig(neighbors=1, shrinkage=0))(np.arange(4)).numpy()
    # Item 1's nearest is item 0, so user 2, who chose item 2, has nothing that speaks for item 1.
    assert scores[2, 1] == 0
    assert scores[2, 2] == pytest.approx(1 / np.sqrt(3))
