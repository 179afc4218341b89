"""The baseline that every recommender has to beat: the same list for every user, by training interactions."""

import numpy as np
import torch

from trainers.data import Dataset
from trainers.evaluation import Rows, Scorer


def popularity(dataset: Dataset) -> Scorer:
    """Scores fall with the item's rank by training interactions, so that no two items tie."""
    order = np.argsort(-dataset.item_counts, kind="stable")
    score = np.empty(len(order), np.float32)
    score[order] = np.arange(len(order), 0, -1)
    scores = torch.from_numpy(score)

    def scorer(users: Rows) -> torch.Tensor:
        return scores.repeat(len(users), 1)

    return scorer
