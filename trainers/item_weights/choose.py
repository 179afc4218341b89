"""What validation decides of the weights: content's share, the penalty, their part of the score, their number."""

import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from schemas.errors import TooFewInteractionsError, UserError
from schemas.training import EvaluationConfig, ItemWeightsConfig
from trainers.data import Dataset
from trainers.evaluation import Relevant, Scorer, accuracy
from trainers.item_weights.candidates import Candidates, content_of
from trainers.item_weights.nearest import Rows
from trainers.item_weights.ridge import Ridge, largest, solve

logger = logging.getLogger(__name__)

PARTS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9)
"""Of the score's spread over a user's items that the weights may have; 0 leaves them out."""
ENOUGH = 0.999
"""Share of the best validation figure from which a smaller table is preferred."""


@dataclass(frozen=True)
class Choice:
    """What validation chose.

    Attributes:
        shares: of each feature in the likeness of content.
        ridge: α and λ.
        factor: of the weights beside the other scorer's scores; 0 where they do not help, 1 where they stand alone.
        kept: the largest positive weights kept per column; None keeps all.
        validation: the selection metric with them.
    """

    shares: dict[str, float]
    ridge: Ridge
    factor: float
    kept: int | None
    validation: float


def choose(
    dataset: Dataset, base: Scorer | None, rule: EvaluationConfig, config: ItemWeightsConfig, threads: int
) -> Choice:
    """Choose on validation, one thing after the other: the features' shares, α, λ, the factor, and how many are kept.

    Args:
        base: the scorer that the weights are added to; None where they stand alone.
    Raises:
        UserError: there is no feature, or a penalty is too small to solve with.
        TooFewInteractionsError: no validation interaction.
    """
    if not dataset.features:
        raise UserError(
            "item weights: they need at least 1 feature table, found none. Choose features, or leave them out."
        )
    if not len(dataset.valid):
        raise TooFewInteractionsError(
            "item weights: choosing them needs at least 1 validation interaction, found 0. Choose an ingest.split that "
            "holds some out (per_user, leave_one_out), name some `valid` in a split of your own, or leave them out."
        )
    judge = Judge(dataset, base, rule, config)
    train = dataset.matrix("train")

    @functools.lru_cache(maxsize=1)  # of a large catalogue it takes gigabytes
    def candidates(names: tuple[str, ...]) -> Candidates:
        content = content_of(dataset.features, dict.fromkeys(names, 1.0))
        return Candidates(train, content, judge.items, config.candidates)

    def best(names: tuple[str, ...], settings: list[Ridge]) -> tuple[float, float, Ridge, sp.csr_matrix]:
        """The best validation figure, its factor, the setting and its weights."""
        outcomes = []
        for setting, columns in solve(candidates(names), settings, threads).items():
            weights = columns.matrix(len(dataset.items))
            factor, value = _highest(judge.values(weights, PARTS))
            outcomes.append((value, factor, setting, weights))
        return max(outcomes, key=lambda outcome: outcome[0])

    middle = Ridge(config.alphas[len(config.alphas) // 2], config.penalties[len(config.penalties) // 2])
    names = tuple(sorted(dataset.features))
    mixes = [names] + ([(name,) for name in names] if len(names) > 1 else [])
    mix = max(mixes, key=lambda mix: best(mix, [middle])[0]) if len(mixes) > 1 else names
    _, _, ridge, _ = best(mix, [Ridge(alpha, middle.penalty) for alpha in config.alphas])
    value, factor, ridge, weights = best(mix, [Ridge(ridge.alpha, penalty) for penalty in config.penalties])
    kept: int | None = None
    for most in sorted(config.kept):
        factor_of_few, value_of_few = _highest(judge.values(largest(weights, most), PARTS))
        if value_of_few >= ENOUGH * value:
            kept, factor, value = most, factor_of_few, value_of_few
            break
    return Choice(dict.fromkeys(mix, 1.0), ridge, factor, kept, value)


def _highest(values: dict[float, float]) -> tuple[float, float]:
    """The factor with the highest figure, the smallest of equals, and the figure."""
    factor = max(sorted(values), key=lambda factor: values[factor])
    return factor, values[factor]


def sample(wanted: Rows, count: int, most: int) -> Rows:
    """All rows below `count`, or where they are more than `most` the wanted ones and others drawn evenly, ascending."""
    if count <= most:
        return np.arange(count)
    others = np.setdiff1d(np.arange(count), wanted)
    return np.sort(np.concatenate([wanted, evenly(others, max(0, most - len(wanted)))]))


def evenly(rows: Rows, most: int) -> Rows:
    """`most` of these rows at equal distances, or all where there are no more."""
    return rows if len(rows) <= most else rows[np.arange(most) * len(rows) // most]


class Judge:
    """Ranks some items for some users, again and again: a sample of a large catalogue, all of a small one.

    The sample's items are all validation items of its users and others drawn evenly, so that its figures are comparable
    with each other, not with those over all items.
    """

    def __init__(
        self, dataset: Dataset, base: Scorer | None, rule: EvaluationConfig, config: ItemWeightsConfig
    ) -> None:
        self.users = evenly(np.unique(dataset.valid[:, 0]), config.judged_users)
        pairs = dataset.valid[np.isin(dataset.valid[:, 0], self.users)]
        self.items = sample(np.unique(pairs[:, 1]), len(dataset.items), config.judged_items)
        self.key, self.rule, self.block = (rule.selection_metric, rule.selection_k), rule, rule.block
        self.interactions = dataset.matrix("train")[self.users]
        column = np.full(len(dataset.items), -1)
        column[self.items] = np.arange(len(self.items))
        line = np.searchsorted(self.users, pairs[:, 0])
        self.relevant = Relevant(np.stack([line, column[pairs[:, 1]]], axis=1), len(self.items))
        self.taken = self.interactions[:, self.items]
        self.base = None if base is None else self._scores(base)

    def _scores(self, base: Scorer) -> NDArray[np.float32]:
        items = torch.from_numpy(self.items)
        return np.concatenate([base(self.users[rows])[:, items].float().cpu().numpy() for rows in self._blocks()])

    def _blocks(self) -> Iterator[Rows]:
        for start in range(0, len(self.users), self.rule.block):
            yield np.arange(start, min(start + self.rule.block, len(self.users)))

    def values(self, weights: sp.csr_matrix, parts: tuple[float, ...]) -> dict[float, float]:
        """Factor of the weights → the selection metric with it, the factors in the order of `parts`.

        Args:
            weights: (items, items), unscaled.
            parts: of the score's spread over a user's items: 0 leaves the weights out, 0.5 gives them as much as the
                base has. Without a base they stand alone, by factor 1.
        """
        narrow = weights[:, self.items]
        factors = [1.0] if self.base is None else self._factors(narrow, parts)
        sums = dict.fromkeys(factors, 0.0)
        for rows in self._blocks():
            term = (self.interactions[rows] @ narrow).toarray()
            for factor in sums:
                scores = factor * term if self.base is None else self.base[rows] + np.float32(factor) * term
                sums[factor] += self._sum(rows, scores)
        return {factor: total / len(self.users) for factor, total in sums.items()}

    def _factors(self, narrow: sp.csr_matrix, parts: tuple[float, ...]) -> list[float]:
        assert self.base is not None
        spreads = [(self.interactions[rows] @ narrow).toarray().std(axis=1).mean() for rows in self._blocks()]
        spread = float(np.mean(spreads))
        ratio = float(self.base.std(axis=1).mean()) / spread if spread else 0.0
        return [ratio * part / (1 - part) for part in parts]

    def _sum(self, rows: Rows, scores: NDArray[np.float32]) -> float:
        """Of the metric over these users, (n, items) scores given."""
        metric, k = self.key
        taken = self.taken[rows]
        scores[np.repeat(np.arange(len(rows)), np.diff(taken.indptr)), taken.indices] = -np.inf
        top = torch.topk(torch.from_numpy(scores), min(k, scores.shape[1]), dim=1).indices.numpy()
        hits = self.relevant.contains(top, rows)
        return float(accuracy(hits, self.relevant.number(rows), (k,))[metric, k].sum())
