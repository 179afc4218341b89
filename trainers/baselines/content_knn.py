"""Item neighbours by content: no training, only cosines of the features."""

import numpy as np
import scipy.sparse as sp
import torch

from schemas.baselines import ContentKNNConfig
from trainers.data import Dataset, modality_shares
from trainers.evaluation import Rows, Scorer
from trainers.graphs import exact_neighbors


def content_knn(dataset: Dataset, config: ContentKNNConfig) -> Scorer:
    """Scores an item by the sum of its likeness to those of its nearest neighbours that the user chose in training.

    Likeness is the mean of the features' cosines, weighted by `modality_weights`, over the features both items have.
    """
    neighbors = exact_neighbors(dataset.features, k=config.neighbors)
    weights = modality_shares(config.modality_weights, dataset.features)
    cosine = np.stack([neighbors.cosine[name] for name in dataset.features])
    share = np.array([weights[name] for name in dataset.features])[:, None] * np.isfinite(cosine)
    total = share.sum(axis=0)
    likeness = np.divide((share * np.nan_to_num(cosine)).sum(axis=0), total, out=np.zeros(len(total)), where=total > 0)
    order = np.lexsort((-likeness, neighbors.item))
    item = neighbors.item[order]
    kept = order[np.arange(len(item)) - np.searchsorted(item, item) < config.neighbors]
    n = len(dataset.items)
    entries = (likeness[kept].astype(np.float32), (neighbors.neighbor[kept], neighbors.item[kept]))
    graph = sp.csr_matrix(entries, shape=(n, n))
    interactions = dataset.matrix("train")

    def scorer(users: Rows) -> torch.Tensor:
        return torch.from_numpy((interactions[users] @ graph).toarray())

    return scorer
