"""Search a recommender's grid with Optuna: validation decides, test is touched once, a killed search goes on."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna

from schemas.errors import UserError
from schemas.training import EvaluationConfig, TuningConfig, TuningResult
from trainers.data import Dataset, load
from trainers.evaluation import evaluate
from trainers.recommenders import Recommender, Values, recommender

logger = logging.getLogger(__name__)


def run(
    *,
    interactions: str,
    features: dict[str, str],
    similarity: str | None,
    output: Path,
    config: TuningConfig,
    on_plan: Callable[[int], None] | None = None,
    on_trial: Callable[[int, float | None, dict[str, Any]], None] | None = None,
) -> TuningResult:
    """Try up to `config.trials` configurations and evaluate the one that validation chooses on test.

    The study lives in `<output>/study.db`, named by data, recommender, fixed values and grid: rerun after a kill, it
    goes on with the trials that are left; other data or another grid starts a study of its own.

    Args:
        interactions, features, similarity: as for `trainers.cm3.run`.
        on_plan: told the number of trials that are left, before the first.
        on_trial: told the trial's number, its validation metric (None: pruned) and its values.
    Raises: UserError: an unknown recommender or parameter, or no trial came to its end.
    """
    dataset = load(interactions=interactions, features=features, similarity=similarity)
    found = recommender(config.model)
    space = dict(config.space or found.space or {})
    if not space:
        raise UserError(f"{config.model}: it has no parameter to tune; choose another recommender or give a space")
    _check(found, config.base, space)
    output.mkdir(parents=True, exist_ok=True)
    study = _study(found, dataset, config, space, output)
    finished = len([trial for trial in study.trials if trial.state.is_finished()])
    left = min(config.trials, math.prod(map(len, space.values()))) - finished
    if on_plan is not None:
        on_plan(max(left, 0))
    if left > 0:
        study.optimize(
            lambda trial: _objective(trial, found, dataset, config, space),
            n_trials=left,
            callbacks=[_report(on_trial)] if on_trial is not None else None,
        )
    return _result(study, found, dataset, config)


def _check(found: Recommender, base: dict[str, Any], space: dict[str, Values]) -> None:
    for name, values in space.items():
        if not values:
            raise UserError(f"{found.name}: {name}: no value to try. Name some, or leave it out of the space.")
        for value in values:
            found.configure(base | {name: value})


def _study(
    found: Recommender, dataset: Dataset, config: TuningConfig, space: dict[str, Values], output: Path
) -> optuna.Study:
    identity = f"{found.name}-{dataset.fingerprint[:16]}-{sorted(config.base.items())}-{sorted(space.items())}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name=identity,
        storage=f"sqlite:///{(output / 'study.db').resolve()}",
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.GridSampler(space, seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=config.warmup_epochs),
    )


def _objective(
    trial: optuna.Trial,
    found: Recommender,
    dataset: Dataset,
    config: TuningConfig,
    space: dict[str, Values],
) -> float:
    chosen = {name: trial.suggest_categorical(name, list(values)) for name, values in space.items()}
    settings = found.configure(config.base | chosen)
    evaluation = _evaluation(settings)
    metric = f"valid_{evaluation.selection_metric}@{evaluation.selection_k}"
    best = 0.0

    def on_epoch(epoch: int, terms: dict[str, float]) -> None:
        nonlocal best
        if metric in terms:
            best = max(best, terms[metric])
            trial.report(best, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

    return found.fit(dataset, settings, evaluation, on_epoch=on_epoch).validation


def _evaluation(settings: Any) -> EvaluationConfig:
    evaluation: EvaluationConfig = getattr(settings, "evaluation", EvaluationConfig())
    return evaluation


def _report(on_trial: Callable[[int, float | None, dict[str, Any]], None]) -> Callable[..., None]:
    def callback(_: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        on_trial(trial.number, trial.value if trial.state == optuna.trial.TrialState.COMPLETE else None, trial.params)

    return callback


def _result(study: optuna.Study, found: Recommender, dataset: Dataset, config: TuningConfig) -> TuningResult:
    """Train the chosen configuration once more and evaluate it on test: the only look at test in the whole search."""
    states = [trial.state for trial in study.trials]
    finished = states.count(optuna.trial.TrialState.COMPLETE)
    if not finished:
        raise UserError(f"tuning {found.name}: expected a trial that trained to its end, found none of {len(states)}")
    chosen = dict(study.best_params)
    settings = found.configure(config.base | chosen)
    evaluation = _evaluation(settings)
    fit = found.fit(dataset, settings, evaluation)
    ranking = evaluate(fit.scorer, dataset, "test", evaluation)
    return TuningResult(
        model=found.name,
        best=chosen,
        config=settings.model_dump(mode="json") if settings is not None else {},
        validation=fit.validation,
        test=ranking.flat(),
        finished=finished,
        pruned=states.count(optuna.trial.TrialState.PRUNED),
    )
