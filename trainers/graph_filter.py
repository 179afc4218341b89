"""The closed-form graph filter: scores from the interaction graph alone, without any training.

It is a recommender (`graph-filter`), and a term of a trained recommender's score (`filter_weight`).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import diags_array
from scipy.sparse.linalg import svds
from torch import Tensor

from schemas.training import GraphFilterConfig
from trainers.data import Dataset
from trainers.evaluation import Rows, Scorer


def graph_filter(dataset: Dataset, config: GraphFilterConfig) -> Scorer:
    """Scores from the filter alone."""
    users, items = (torch.from_numpy(part) for part in filter_embeddings(dataset, config))

    def scorer(rows: Rows) -> Tensor:
        return users[torch.from_numpy(rows)] @ items.T

    return scorer


def filter_embeddings(dataset: Dataset, config: GraphFilterConfig) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of users (users, rank) and items (items, rank) whose dot products are the filtered interactions.

    With N = D_u^-1/2 R D_i^-1/2 ≈ U S Vᵀ, the scores are N V diag(λ / (λ + c)) Vᵀ D_i^1/2, λ = S² the eigenvalues of
    the graph and c the noise: a Wiener filter on the leading directions. Each user's scores are scaled to length 1 over
    all items, so that their weight beside other terms does not depend on the catalogue's size; a user without training
    interactions has zeros. The rank is capped at one less than the number of users and of items.

    Source: graph filtering as in GF-CF (arXiv 2108.07567), with Tikhonov's filter in place of the ideal one.
    """
    interactions = dataset.matrix("train").astype(np.float64)
    degrees = [np.asarray(interactions.sum(axis=axis)).ravel() for axis in (1, 0)]
    by_user, by_item = (np.divide(1, np.sqrt(d), out=np.zeros_like(d), where=d > 0) for d in degrees)
    normalised = (diags_array(by_user) @ interactions @ diags_array(by_item)).tocsr()
    rank = min(config.rank, *(n - 1 for n in normalised.shape))
    if rank < 1:
        empty = [np.zeros((n, 0), np.float32) for n in normalised.shape]
        return empty[0], empty[1]
    start = np.sqrt(degrees[0 if normalised.shape[0] <= normalised.shape[1] else 1]) + 1  # permutes with the rows
    left, values, right = svds(normalised, k=rank, v0=start)
    # The solver's choice of a direction's sign may change with rounding, and so with the number of threads.
    largest = np.abs(right).argmax(axis=1)
    signs = np.sign(right[np.arange(rank), largest])
    left, right = left * signs, right * signs[:, None]
    users = left * values
    items = (right.T * (values**2 / (values**2 + config.noise))) * np.sqrt(degrees[1])[:, None]
    lengths = np.sqrt(np.einsum("ur,rs,us->u", users, items.T @ items, users).clip(0))
    users /= np.where(lengths > 1e-12, lengths, np.inf)[:, None]
    return users.astype(np.float32), items.astype(np.float32)
