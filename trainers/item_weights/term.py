"""The weights as a term of the score: chosen beside another scorer, added to its scores, and explained."""

import logging

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from schemas.training import EvaluationConfig, ItemWeightsConfig
from trainers.data import Dataset
from trainers.evaluation import Lists, Rows, Scorer
from trainers.item_weights.choose import Choice, choose
from trainers.item_weights.fit import item_weights
from trainers.item_weights.ridge import Workers

logger = logging.getLogger(__name__)

REASONS = 3
"""Chosen items that are named as reasons of one recommendation, at most."""
BLOCK = 4096
"""Users whose reasons are sought at once."""


def choose_weights(
    dataset: Dataset,
    base: Scorer | None,
    config: ItemWeightsConfig,
    evaluation: EvaluationConfig,
    workers: Workers | None = None,
) -> tuple[Choice, sp.csr_matrix]:
    """What validation chooses beside `base`, and the weights of the training interactions.

    Args:
        workers: as in `item_weights`.
    """
    threads = torch.get_num_threads()
    choice = choose(dataset, base, evaluation, config, threads)
    logger.info(
        "item weights: α %g, λ %g, features' shares %s, factor %.3g, %s per item chosen on validation, %.4f",
        choice.ridge.alpha,
        choice.ridge.penalty,
        ", ".join(f"{name} {share:g}" for name, share in choice.shares.items()),
        choice.factor,
        choice.kept or "all",
        choice.validation,
    )
    return choice, item_weights(dataset, choice, config, threads, workers=workers).matrix


def with_weights(base: Scorer | None, weights: sp.csr_matrix, interactions: sp.csr_matrix) -> Scorer:
    """Scores of `base` plus the weights of what each user chose.

    Args:
        interactions: (users, items), what counts as chosen.
    """
    if base is not None and not weights.nnz:
        return base

    def scorer(rows: Rows) -> Tensor:
        term = torch.from_numpy((interactions[rows] @ weights).toarray())
        if base is None:
            return term
        scores = base(rows)
        return scores.add_(term.to(scores))

    return scorer


def reasons(lists: Lists, k: int, weights: sp.csr_matrix, interactions: sp.csr_matrix) -> NDArray[np.int64]:
    """The chosen items that weigh most in each recommendation, (users, k, `REASONS`), -1 where there are fewer."""
    width = min(k, lists.items.shape[1])
    rows = np.full((len(lists.users), width, REASONS), -1)
    columns = weights.tocsc()
    count = weights.shape[0]
    for start in range(0, len(lists.users), BLOCK):
        users, items = lists.users[start : start + BLOCK], lists.items[start : start + BLOCK, :width]
        place = np.flatnonzero(items.ravel() >= 0)
        item = items.ravel()[place]
        lengths = columns.indptr[item + 1] - columns.indptr[item]
        entry = np.repeat(columns.indptr[item] - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
        owner = np.repeat(np.arange(len(place)), lengths)
        chosen, weight = columns.indices[entry].astype(np.int64), columns.data[entry]
        mine = interactions[users].tocoo()
        keys = np.sort(mine.row.astype(np.int64) * count + mine.col)
        key = (place[owner] // width) * count + chosen
        at = np.minimum(np.searchsorted(keys, key), len(keys) - 1) if len(keys) else np.zeros(len(key), np.int64)
        counts = (keys[at] == key) & (weight > 0) if len(keys) else np.zeros(len(key), np.bool_)
        owner, chosen, weight = owner[counts], chosen[counts], weight[counts]
        order = np.lexsort((chosen, -weight, owner))
        owner, chosen = owner[order], chosen[order]
        rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
        first = rank < REASONS
        block = rows[start : start + BLOCK].reshape(-1, REASONS)
        block[place[owner[first]], rank[first]] = chosen[first]
    return rows


def item_weights_alone(dataset: Dataset, config: ItemWeightsConfig) -> Scorer:
    """The closed form as a recommender of its own."""
    _, weights = choose_weights(dataset, None, config, EvaluationConfig())
    return with_weights(None, weights, dataset.matrix("train"))
