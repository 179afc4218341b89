"""Item neighbours by interactions: no training, only how many users two items have in common."""

import numpy as np
import scipy.sparse as sp
import torch

from schemas.baselines import ItemKNNConfig
from trainers.data import Dataset
from trainers.evaluation import Rows, Scorer
from trainers.item_weights.ridge import largest


def item_knn(dataset: Dataset, config: ItemKNNConfig) -> Scorer:
    """Scores an item by the sum of its likeness to those of its nearest neighbours that the user chose in training.

    Likeness of items i and j with n_i and n_j users, n_ij of them common: n_ij / (√(n_i n_j) + shrinkage), the cosine
    of their columns, made smaller where it rests on few users. The item itself is no neighbour.

    Source: Deshpande and Karypis 2004; shrinkage after Bell and Koren 2007.
    """
    interactions = dataset.matrix("train")
    common = (interactions.T @ interactions).tocoo()
    users = np.sqrt(dataset.item_counts)
    likeness = common.data / (users[common.row] * users[common.col] + np.float32(config.shrinkage))
    others = common.row != common.col
    entries = likeness[others].astype(np.float32), (common.row[others], common.col[others])
    weights = largest(sp.csr_matrix(entries, shape=common.shape), config.neighbors)

    def scorer(rows: Rows) -> torch.Tensor:
        return torch.from_numpy((interactions[rows] @ weights).toarray())

    return scorer
