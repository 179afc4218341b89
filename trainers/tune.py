"""Search a recommender's grid with Optuna: validation decides, test is touched once, a killed search goes on."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna

from schemas.errors import UserError
from schemas.training import (
    EvaluationConfig,
    Grid,
    RecommenderConfig,
    TrainingConfig,
    TrainingTables,
    TuningConfig,
    TuningResult,
)
from trainers.checkpoint import run_key
from trainers.data import Dataset, load
from trainers.evaluation import evaluate
from trainers.recommenders import Recommender, recommender

logger = logging.getLogger(__name__)


def run(
    *,
    tables: TrainingTables,
    output: Path,
    config: TuningConfig,
    on_plan: Callable[[int], None] | None = None,
    on_trial: Callable[[int, float | None, dict[str, Any]], None] | None = None,
) -> TuningResult:
    """Try up to `config.trials` configurations; the one that validation chooses is evaluated on test.

    The study lives in `<output>/study.db`, named by data, recommender, fixed values (defaults among them), grid and
    the training's version. Rerun after a kill, it goes on with the trials that are left; where any of these differs,
    another study starts.

    Args:
        output: local folder that gets `study.db`.
        on_plan: told the number of trials left, before the first.
        on_trial: told the trial's number, its validation metric (None: pruned) and its values.
    Raises: UserError: an unknown recommender or parameter, or no trial that trained to its end.
    """
    dataset = load(tables).core()
    entry = recommender(config.model)
    space = config.space or entry.config.grid
    if not space:
        raise UserError(f"{config.model}: it has no parameter to tune; choose another recommender or give a space")
    _check(entry, config.base, space)
    output.mkdir(parents=True, exist_ok=True)
    study = _study(entry, dataset, config, space, output)
    finished = len([trial for trial in study.trials if trial.state.is_finished()])
    left = min(config.trials, math.prod(map(len, space.values()))) - finished
    if on_plan is not None:
        on_plan(max(left, 0))
    if left > 0:
        study.optimize(
            lambda trial: _objective(trial, entry, dataset, config, space),
            n_trials=left,
            callbacks=[_report(on_trial)] if on_trial is not None else None,
        )
    return _result(study, entry, dataset, config)


def _check(entry: Recommender, base: dict[str, Any], space: Grid) -> None:
    for name, values in space.items():
        if not values:
            raise UserError(f"{entry.name}: {name}: no value to try. Name some, or leave it out of the space.")
        for value in values:
            entry.configure(base | {name: value})


def _study(entry: Recommender, dataset: Dataset, config: TuningConfig, space: Grid, output: Path) -> optuna.Study:
    # A whole configuration, since another version may have other defaults; base alone may be none, so one of the grid.
    first = entry.configure(config.base | {name: values[0] for name, values in space.items()})
    key = run_key(entry.name, dataset, first, evaluation=_evaluation(first).model_dump(mode="json"))
    identity = f"{entry.name}-{key[:16]}-{sorted(space.items())}"
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
    entry: Recommender,
    dataset: Dataset,
    config: TuningConfig,
    space: Grid,
) -> float:
    chosen = {name: trial.suggest_categorical(name, list(values)) for name, values in space.items()}
    parameters = entry.configure(config.base | chosen)
    evaluation = _evaluation(parameters)
    metric = f"valid_{evaluation.selection_metric}@{evaluation.selection_k}"
    best = 0.0

    def on_epoch(epoch: int, terms: dict[str, float]) -> None:
        nonlocal best
        if metric in terms:
            best = max(best, terms[metric])
            trial.report(best, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

    return entry.fit(dataset, parameters, evaluation, on_epoch=on_epoch).validation


def _evaluation(parameters: RecommenderConfig) -> EvaluationConfig:
    """The recommender's own rule; the default one for recommenders that are not trained."""
    return parameters.evaluation if isinstance(parameters, TrainingConfig) else EvaluationConfig()


def _report(on_trial: Callable[[int, float | None, dict[str, Any]], None]) -> Callable[..., None]:
    def callback(_: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        on_trial(trial.number, trial.value if trial.state == optuna.trial.TrialState.COMPLETE else None, trial.params)

    return callback


def _result(study: optuna.Study, entry: Recommender, dataset: Dataset, config: TuningConfig) -> TuningResult:
    """Train the chosen configuration once more and evaluate it on test: the only look at test in the whole search."""
    states = [trial.state for trial in study.trials]
    finished = states.count(optuna.trial.TrialState.COMPLETE)
    if not finished:
        raise UserError(f"tuning {entry.name}: expected a trial that trained to its end, found none of {len(states)}")
    chosen = dict(study.best_params)
    parameters = entry.configure(config.base | chosen)
    evaluation = _evaluation(parameters)
    fitted = entry.fit(dataset, parameters, evaluation)
    ranking = evaluate(fitted.scorer, dataset, "test", evaluation)
    return TuningResult(
        model=entry.name,
        best=chosen,
        config=parameters.model_dump(mode="json"),
        validation=fitted.validation,
        test=ranking.flat(),
        finished=finished,
        pruned=states.count(optuna.trial.TrialState.PRUNED),
    )
