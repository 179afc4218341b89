"""EASE: the linear item-to-item model with a closed form."""

import numpy as np
import torch

from schemas.baselines import EASEConfig
from schemas.errors import UserError
from trainers.data import Dataset
from trainers.evaluation import Rows, Scorer

MOST_ITEMS = 20_000
"""Its weights are a dense (items, items) matrix: 3.2 GB in float64 at this size, and as much again to invert."""


def ease(dataset: Dataset, config: EASEConfig) -> Scorer:
    """Scores X B, where B is the ridge regression of every item on all others, with a zero diagonal.

    Source: Steck 2019 (arXiv 1905.03375), eq. (8).
    Raises: UserError: more items than its dense weights allow.
    """
    count = len(dataset.items)
    if count > MOST_ITEMS:
        raise UserError(
            f"ease: expected at most {MOST_ITEMS:,} items for its dense weights, found {count:,}. Leave it out."
        )
    interactions = dataset.matrix("train").astype(np.float64)
    gram = (interactions.T @ interactions).toarray()
    gram[np.diag_indices(count)] += config.l2
    inverse = np.linalg.inv(gram)
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    narrow = weights.astype(np.float32)

    def scorer(users: Rows) -> torch.Tensor:
        return torch.from_numpy(interactions[users].astype(np.float32) @ narrow)

    return scorer
