"""Content neighbours score by likeness."""

from pathlib import Path

import numpy as np

from schemas.baselines import ContentKNNConfig
from tests.support.world import draw_world
from trainers.baselines.content_knn import content_knn
from trainers.data import load


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
    dataset = load(world.write(tmp_path).tables)
    scores = content_knn(dataset, ContentKNNConfig(neighbors=2))(np.arange(2)).numpy()
    # i001's nearest are i002 and i000, i002's are i001 and i003: i000 is not among the latter, however alike.
    np.testing.assert_allclose(scores, [[0, 0.8, 0, 0], [0, 0, 0.8, 0]], atol=1e-6)
