"""What validation decides of the weights: content's share, the penalty, their part of the score, their number."""

import functools
import logging
from dataclasses import dataclass

import scipy.sparse as sp

from schemas.errors import TooFewInteractionsError, UserError
from schemas.training import EvaluationConfig, ItemWeightsConfig
from trainers.data import Dataset
from trainers.evaluation import Scorer
from trainers.item_weights.candidates import Candidates, content_of
from trainers.item_weights.judge import Judge
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
