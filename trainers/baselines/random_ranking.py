"""What chance alone finds: a list of its own for every user, in random order."""

import numpy as np
import torch

from trainers.data import Dataset
from trainers.evaluation import Rows, Scorer


def random_ranking(dataset: Dataset) -> Scorer:
    """Scores drawn from the user's row number, so that they depend on nothing else."""
    count = len(dataset.items)

    def scorer(users: Rows) -> torch.Tensor:
        drawn = [np.random.default_rng(int(user)).random(count, np.float32) for user in users]
        return torch.from_numpy(np.stack(drawn) if drawn else np.zeros((0, count), np.float32))

    return scorer
