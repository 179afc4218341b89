"""Encoders side by side: CM3 trained on each one's vectors alone, and hidden items found by them alone."""

import json
import logging
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np

from schemas.encoder_comparison import EncoderPair, Judged
from schemas.errors import TooFewInteractionsError
from schemas.training import ComparisonConfig, ItemWeightsConfig, TrainingTables
from trainers import significance
from trainers.checkpoint import run_key
from trainers.compare import Entry, keep, train, with_features
from trainers.data import Dataset, load
from trainers.evaluation import Floats
from trainers.hidden_items import EVERY, FIRST, hide, judged
from trainers.recommenders import recommender

logger = logging.getLogger(__name__)

WARM_KEPT = 0.99
"""`ItemWeightsConfig.warm_kept` here: what counts is which hidden items are found, not how many places they get."""

Measure = Literal["warm", "cold"]
ByUser = dict[int, list[float]]
"""Row of a user → the measure in each draw in which the user is judged."""


def run(
    *,
    tables: TrainingTables,
    finished: Path,
    config: ComparisonConfig,
    on_plan: Callable[[int], None] | None = None,
    on_run: Callable[[str, int, float], None] | None = None,
) -> tuple[dict[str, Judged], list[EncoderPair]]:
    """Judge each feature of `tables` alone, on the same users, items and splits, and compare every two.

    Args:
        finished: local folder of finished trainings: a killed comparison goes on where it stopped, and one with another
            encoder or more seeds trains only those.
        on_plan: told the number of trainings before the first.
        on_run: told the feature, the seed and the validation metric after each training.

    Raises: UserError: unusable data or parameters.
    """
    dataset = load(tables).core()
    names = list(tables.features)
    if on_plan is not None:
        on_plan(len(names) * len(config.seeds))
    results: dict[str, Judged] = {}
    by_user: dict[Measure, dict[str, Floats]] = {"warm": {}, "cold": {}}
    key = f"{config.cm3.evaluation.selection_metric}@{config.cm3.evaluation.selection_k}"
    for name in names:
        entry = Entry("cm3", "cm3", config.cm3.model_dump(), (name,))
        trainings = []
        for seed in config.seeds:
            training = train(entry, seed, dataset, config, finished)
            trainings.append(training)
            logger.info("%s, seed %d: validation %.4f", name, seed, training.validation)
            if on_run is not None:
                on_run(name, seed, training.validation)
        warm = [training.test[key] for training in trainings]
        by_user["warm"][name] = np.mean([training.per_user for training in trainings], axis=0)
        draws = [_cold(name, seed, dataset, config, finished) for seed in config.seeds[:EVERY]]
        cold = [float(np.mean([value for values in draw.values() for value in values])) for draw in draws if draw]
        by_user["cold"][name] = _means(draws)
        results[name] = Judged(
            warm=float(np.mean(warm)),
            warm_spread=_spread(warm),
            cold=float(np.mean(cold)) if cold else None,
            cold_spread=_spread(cold),
        )
    return results, _pairs(by_user)


def _cold(name: str, seed: int, dataset: Dataset, config: ComparisonConfig, finished: Path) -> ByUser:
    """Recall of the items hidden in one draw, by the item weights fitted without them; empty if nobody is judged, or
    too little is left to fit them on.
    """
    hidden = hide(with_features(dataset, (name,)), (FIRST + seed) % EVERY)
    if hidden is None:
        return {}
    rule, model = config.cm3.evaluation, recommender("item-weights")
    weights = (config.cm3.item_weights or ItemWeightsConfig()).model_copy(update={"warm_kept": WARM_KEPT})
    path = finished / f"{run_key(model.name, hidden.dataset, weights, cold_users=rule.model_dump(mode='json'))}.json"
    if not path.exists():
        assert model.score is not None
        try:
            ranking = judged(model.score(hidden.dataset, weights), hidden, rule)["cold"]
        except TooFewInteractionsError as error:
            logger.warning("%s, seed %d: hidden items are not judged: %s", name, seed, error)
            return {}
        values = ranking.per_user["recall", rule.selection_k]
        keep(path, json.dumps([[user, [value]] for user, value in zip(ranking.users.tolist(), values, strict=True)]))
    return dict(json.loads(path.read_bytes()))


def _means(draws: list[ByUser]) -> Floats:
    """Each judged user's mean over the draws, in the users' order."""
    together: ByUser = {}
    for draw in draws:
        for user, values in draw.items():
            together.setdefault(user, []).extend(values)
    return np.array([np.mean(together[user]) for user in sorted(together)])


def _spread(values: list[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _pairs(by_user: Mapping[Measure, Mapping[str, Floats]]) -> list[EncoderPair]:
    """Every two encoders by every measure for which there are users."""
    compared = {
        (measure, first, second): (values[first], values[second])
        for measure, values in by_user.items()
        for first, second in combinations(values, 2)
        if len(values[first])
    }
    p_values = {key: significance.p_value(*pair) for key, pair in compared.items()}
    corrected = significance.holm({str(key): value for key, value in p_values.items()})
    return [
        EncoderPair(
            encoder=first,
            other=second,
            measure=measure,
            ahead=float(ours.mean() / theirs.mean() - 1) if theirs.any() else None,
            p_value=p_values[measure, first, second],
            p_holm=corrected[str((measure, first, second))],
        )
        for (measure, first, second), (ours, theirs) in compared.items()
    ]
