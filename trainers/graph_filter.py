"""The closed-form graph filter: scores from the interaction graph alone, without any training.

It is a recommender (`graph-filter`), and a term of a trained recommender's score (`filter_weight`).
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags_array
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


class Directions(NamedTuple):
    """The leading singular vectors of the normalised interactions N: N ≈ users · diag(values) · itemsᵀ, float64."""

    users: NDArray[np.float64]
    values: NDArray[np.float64]
    items: NDArray[np.float64]


class FilterBasis(NamedTuple):
    """What places users and items that came later among the filter's directions.

    Attributes:
        items: V D_i^-1/2, (items, rank), float32; rows of zeros for items that were not there.
        eigenvalues: λ, (rank,), float64.
        gram: of the items' coordinates, (rank, rank), float64, which gives a user's scores their length.
    """

    items: NDArray[np.float32]
    eigenvalues: NDArray[np.float64]
    gram: NDArray[np.float64]


def filter_embeddings(dataset: Dataset, config: GraphFilterConfig) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of users (users, rank) and items (items, rank) whose dot products are the filtered interactions.

    With N = D_u^-1/2 R D_i^-1/2 ≈ U S Vᵀ, the scores are N V diag(λ / (λ + c)) Vᵀ D_i^1/2, λ = S² the eigenvalues of
    the graph and c the noise: a Wiener filter on the leading directions. Each user's scores are scaled to length 1 over
    all items, so that their weight beside other terms does not depend on the catalogue's size; a user without training
    interactions has zeros. The rank is capped at one less than the number of users and of items.

    Source: graph filtering as in GF-CF (arXiv 2108.07567), with Tikhonov's filter in place of the ideal one.
    """
    directions = dataset.derived(leading_directions, config)
    items = _of_items(directions, dataset, config)
    users = _scaled(directions.users * directions.values, items.T @ items)
    return users.astype(np.float32), items.astype(np.float32)


def filter_basis(dataset: Dataset, config: GraphFilterConfig) -> FilterBasis:
    """What `fold_in` needs of the data that the filter was made from."""
    directions = dataset.derived(leading_directions, config)
    counts = dataset.item_counts
    by_item = np.divide(1, np.sqrt(counts), out=np.zeros(len(counts)), where=counts > 0)
    items = _of_items(directions, dataset, config)
    placed = (directions.items * by_item[:, None]).astype(np.float32)
    return FilterBasis(placed, directions.values**2, items.T @ items)


def fold_in(
    basis: FilterBasis, interactions: csr_matrix, noise: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors as `filter_embeddings` gives them, in the directions of earlier data.

    A user stands where the items that they chose put them, N V; an item of the later data where its users put it,
    Nᵀ U = Nᵀ (N V) S⁻¹. Without any of these: zeros.

    Args:
        interactions: (users, items) of the later data; `basis.items` has the same items.
    """
    chosen = interactions.astype(np.float64)
    degrees = np.asarray(chosen.sum(axis=1)).ravel()
    chosen = diags_array(np.divide(1, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)) @ chosen
    users = chosen @ basis.items.astype(np.float64)
    counts = np.asarray(interactions.sum(axis=0)).ravel()[:, None]
    known = basis.items.any(axis=1, keepdims=True)
    items = np.where(known, basis.items * counts * basis.eigenvalues, chosen.T @ users)
    items = items / (basis.eigenvalues + noise)
    return _scaled(users, basis.gram).astype(np.float32), items.astype(np.float32)


def leading_directions(dataset: Dataset, config: GraphFilterConfig) -> Directions:
    """The directions that the filter keeps; none where there is but one user or item."""
    interactions = dataset.matrix("train").astype(np.float64)
    degrees = [np.asarray(interactions.sum(axis=axis)).ravel() for axis in (1, 0)]
    by_user, by_item = (np.divide(1, np.sqrt(d), out=np.zeros_like(d), where=d > 0) for d in degrees)
    normalised = (diags_array(by_user) @ interactions @ diags_array(by_item)).tocsr()
    rank = min(config.rank, *(n - 1 for n in normalised.shape))
    if rank < 1:
        none = [np.zeros((n, 0)) for n in normalised.shape]
        return Directions(none[0], np.zeros(0), none[1])
    start = np.sqrt(degrees[0 if normalised.shape[0] <= normalised.shape[1] else 1]) + 1  # permutes with the rows
    left, values, right = svds(normalised, k=rank, v0=start)
    # The solver's choice of a direction's sign may change with rounding, and so with the number of threads.
    largest = np.abs(right).argmax(axis=1)
    signs = np.sign(right[np.arange(rank), largest])
    return Directions(left * signs, values, right.T * signs)


def _of_items(directions: Directions, dataset: Dataset, config: GraphFilterConfig) -> NDArray[np.float64]:
    eigenvalues = directions.values**2
    kept = eigenvalues / (eigenvalues + config.noise)
    items: NDArray[np.float64] = directions.items * kept * np.sqrt(dataset.item_counts)[:, None]
    return items


def _scaled(users: NDArray[np.float64], gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """The users' vectors, each divided by the length of its scores over all items."""
    lengths = np.sqrt(np.einsum("ur,rs,us->u", users, gram, users).clip(0))
    scaled: NDArray[np.float64] = users / np.where(lengths > 1e-12, lengths, np.inf)[:, None]
    return scaled
