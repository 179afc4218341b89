"""What validation decides of the weights: α, λ, the features' shares, the factor, and how many are kept."""

import functools
import logging
from dataclasses import dataclass
from typing import NamedTuple

import scipy.sparse as sp

from schemas.errors import TooFewInteractionsError, UserError
from schemas.training import EvaluationConfig, ItemWeightsConfig
from trainers.data import Dataset
from trainers.evaluation import Scorer
from trainers.item_weights.candidates import Candidates, content_of
from trainers.item_weights.judge import Judge
from trainers.item_weights.ridge import Columns, Ridge, largest, solve

logger = logging.getLogger(__name__)

Shares = dict[str, float]
"""Feature → its share in the likeness of content; only the ratios matter."""

SHARES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Shares of a feature to try, beside others of 1."""
PARTS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9)
"""Of the score's spread over a user's items that the weights may have; 0 leaves them out."""
ENOUGH = 0.999
"""Share of the best validation figure from which a smaller table is preferred."""


@dataclass(frozen=True)
class Choice:
    """What validation chose.

    Attributes:
        shares: of each feature in the likeness of content, by name; the largest is 1.
        ridge: α and λ.
        factor: of the weights beside the other scorer's scores; 0 where they do not help, 1 where they stand alone.
        kept: the largest positive weights kept per column; None keeps all.
        validation: the selection metric with them.
    """

    shares: Shares
    ridge: Ridge
    factor: float
    kept: int | None
    validation: float


def choose(
    dataset: Dataset, base: Scorer | None, rule: EvaluationConfig, config: ItemWeightsConfig, threads: int
) -> Choice:
    """Choose on validation, one thing after the other: all features or one alone, α, λ, the features' shares, and how
    many weights are kept; the best factor of each.

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
    trials = Trials(dataset, Judge(dataset, base, rule, config), config, threads)
    middle = Ridge(config.alphas[len(config.alphas) // 2], config.penalties[len(config.penalties) // 2])
    names = sorted(dataset.features)
    mixes: list[Shares] = [dict.fromkeys(names, 1.0)] + ([{name: 1.0} for name in names] if len(names) > 1 else [])
    mix = max(mixes, key=lambda mix: trials.best(mix, [middle]).value) if len(mixes) > 1 else mixes[0]
    ridge = trials.best(mix, [Ridge(alpha, middle.penalty) for alpha in config.alphas]).ridge
    simple = trials.best(mix, [Ridge(ridge.alpha, penalty) for penalty in config.penalties])
    mixed = trials.best(_climbed(trials, mix, names, simple.ridge), [simple.ridge])
    # Both are shortened before they are compared: what is left of better weights may be worse.
    choices = [trials.shortened(outcome) for outcome in ([simple] if mixed is simple else [simple, mixed])]
    logger.info("item weights: %d settings solved for %d items", len(trials.outcomes), len(trials.judge.items))
    return max(choices, key=lambda choice: choice.validation)


def _climbed(trials: "Trials", mix: Shares, names: list[str], ridge: Ridge) -> Shares:
    """Shares at least as good as those of `mix`: each feature's goes up `SHARES` as long as that helps, or else down.

    At most `len(SHARES) - 1` settings are solved per feature: two where its share stays as it is.
    """

    def value(shares: Shares) -> float:
        return trials.best(shares, [ridge]).value

    for name in names if len(names) > 1 else []:
        for step in (1, -1):
            while (moved := _moved(mix, name, step)) is not None and value(moved) > value(mix):
                mix = moved
    return mix


def _moved(mix: Shares, name: str, step: int) -> Shares | None:
    """The shares with that of one feature a step further; None where there is no further step, or nothing left."""
    place = SHARES.index(mix.get(name, 0.0)) + step
    moved = {**mix, name: SHARES[place]} if 0 <= place < len(SHARES) else {}
    return moved if any(moved.values()) else None


class Outcome(NamedTuple):
    """The weights by one setting of shares (the largest is 1) and penalties, their best factor, and its figure."""

    value: float
    factor: float
    shares: Shares
    ridge: Ridge
    columns: Columns


class Trials:
    """Settings solved for the judge's items and judged, each once; of each, 8 bytes per judged item and candidate stay.

    Attributes:
        outcomes: of what was solved so far.
    """

    def __init__(self, dataset: Dataset, judge: Judge, config: ItemWeightsConfig, threads: int) -> None:
        self.dataset, self.judge, self.config, self.threads = dataset, judge, config, threads
        self.train = dataset.matrix("train")
        self.outcomes: dict[tuple[tuple[tuple[str, float], ...], Ridge], Outcome] = {}
        self._candidates = functools.lru_cache(maxsize=1)(self._candidates_of)  # of a large catalogue: gigabytes

    def _candidates_of(self, shares: tuple[tuple[str, float], ...]) -> Candidates:
        content = content_of(self.dataset.features, dict(shares))
        return Candidates(self.train, content, self.judge.items, self.config.candidates)

    def best(self, shares: Shares, settings: list[Ridge]) -> Outcome:
        """The setting with the best validation figure, the first of equals. Only the shares' ratios matter."""
        most = max(shares.values())
        mix = tuple((name, share / most) for name, share in sorted(shares.items()) if share)
        if fresh := [setting for setting in settings if (mix, setting) not in self.outcomes]:
            for setting, columns in solve(self._candidates(mix), fresh, self.threads).items():
                factor, value = _highest(self.judge.values(self._matrix(columns), PARTS))
                self.outcomes[mix, setting] = Outcome(value, factor, dict(mix), setting, columns)
        return max((self.outcomes[mix, setting] for setting in settings), key=lambda outcome: outcome.value)

    def shortened(self, outcome: Outcome) -> Choice:
        """The choice with the fewest weights per item that are nearly as good as all of them."""
        weights = self._matrix(outcome.columns)
        for most in sorted(self.config.kept):
            factor, value = _highest(self.judge.values(largest(weights, most), PARTS))
            if value >= ENOUGH * outcome.value:
                return Choice(outcome.shares, outcome.ridge, factor, most, value)
        return Choice(outcome.shares, outcome.ridge, outcome.factor, None, outcome.value)

    def _matrix(self, columns: Columns) -> sp.csr_matrix:
        return columns.matrix(len(self.dataset.items))


def _highest(values: dict[float, float]) -> tuple[float, float]:
    """The factor with the highest figure, the smallest of equals, and the figure."""
    factor = max(sorted(values), key=lambda factor: values[factor])
    return factor, values[factor]
