"""Linear item-to-item models with a closed form: EASE, and the same with content beside choices."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack

from schemas.baselines import ContentEASEConfig, EASEConfig
from schemas.errors import UserError
from trainers.data import Dataset, modality_shares
from trainers.evaluation import Rows, Scorer
from trainers.item_weights.candidates import content_of

MOST_ITEMS = 20_000
"""Their weights are a dense (items, items) matrix: 3.2 GB in float64 at this size, inverted in place, and 1.6 GB as the
scorer keeps it."""
BLOCK = 1024
"""Rows that are computed at once."""


def ease(dataset: Dataset, config: EASEConfig) -> Scorer:
    """Scores X B, where B is the ridge regression of every item on all others, with a zero diagonal.

    Source: Steck 2019 (arXiv 1905.03375), eq. (8).
    Raises: UserError: more items than its dense weights allow.
    """
    return _regression(dataset, _common_users(dataset, "ease"), config.l2)


def content_ease(dataset: Dataset, config: ContentEASEConfig) -> Scorer:
    """EASE on X'X + α S, where S is the cosine of the items' content: being alike counts as having common users.

    It is the exact form of `item-weights`, whose regressions see a few candidates each.

    Raises: UserError: more items than its dense weights allow, no feature, or shares that do not name the features.
    """
    if not dataset.features:
        raise UserError("content-ease: it needs at least 1 feature table, found none. Choose features, e.g. sentence.")
    gram = _common_users(dataset, "content-ease")
    content = content_of(dataset.features, modality_shares(config.modality_weights, dataset.features))
    for start in range(0, len(gram), BLOCK):
        gram[:, start : start + BLOCK] += config.alpha * (content @ content[start : start + BLOCK].T)
    return _regression(dataset, gram, config.l2)


def _common_users(dataset: Dataset, name: str) -> NDArray[np.float64]:
    """X'X, (items, items)."""
    count = len(dataset.items)
    if count > MOST_ITEMS:
        raise UserError(
            f"{name}: expected at most {MOST_ITEMS:,} items for its dense weights, found {count:,}. Leave it out."
        )
    interactions = dataset.matrix("train").astype(np.float64)
    dense: NDArray[np.float64] = (interactions.T @ interactions).toarray(order="F")
    return dense


def _regression(dataset: Dataset, gram: NDArray[np.float64], l2: float) -> Scorer:
    """The scorer of the regression with this matrix, column-major, which is overwritten."""
    gram[np.diag_indices(len(gram))] += l2
    inverse = _inverse(gram)
    diagonal = np.diag(inverse).copy()
    weights = np.empty(gram.shape, np.float32)
    for start in range(0, len(gram), BLOCK):
        rows = slice(start, start + BLOCK)
        weights[rows] = inverse[:, rows].T / -diagonal
    np.fill_diagonal(weights, 0.0)
    interactions = dataset.matrix("train")

    def scorer(users: Rows) -> torch.Tensor:
        return torch.from_numpy(interactions[users] @ weights)

    return scorer


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of a symmetric, positive definite matrix, column-major, in the matrix's own memory."""
    factor, failed = lapack.dpotrf(matrix, lower=1, clean=0, overwrite_a=1)
    inverse: NDArray[np.float64]
    inverse, failed_too = lapack.dpotri(factor, lower=1, overwrite_c=1)
    if failed or failed_too:
        raise UserError("the ridge regression has no solution: its penalty is too small. Raise `l2`.")
    for start in range(0, len(inverse), BLOCK):  # the upper half from the lower one
        rows = slice(start, start + BLOCK)
        inverse[rows, start + BLOCK :] = inverse[start + BLOCK :, rows].T
        square = inverse[rows, rows]
        square[:] = np.tril(square) + np.tril(square, -1).T
    return inverse
