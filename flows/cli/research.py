"""Compare recommenders and tune them on a data set's own tables: compare, tune."""

import json
import logging
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from flows.cli.options import Dataset, JsonOption, StoreOption, answer, json_object, log_to_terminal, opened
from flows.cli.tables import Shown, fitted
from flows.parameters import validated

if TYPE_CHECKING:  # the models of all trainers' parameters, which every other command does without
    from schemas.training import ComparisonRow, EvaluationConfig, TuningResult

logger = logging.getLogger(__name__)


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(compare)
    app.command()(tune)


def compare(
    dataset: Dataset,
    models: Annotated[
        list[str], typer.Option(help="Recommenders; by default CM3 and all that it is measured against.")
    ] = [],  # noqa: B006 - typer reads defaults
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each.")] = 5,
    ablations: Annotated[bool, typer.Option(help="Add CM3 without each of its parts and features.")] = False,
    cm3: Annotated[Any, typer.Option(help="CM3's hyper-parameters (JSON).", parser=json_object, metavar="JSON")] = "{}",
    overrides: Annotated[
        Any,
        typer.Option(help="Recommender → parameters unlike its defaults (JSON).", parser=json_object, metavar="JSON"),
    ] = "{}",
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Train recommenders over several seeds on the same data, split, selection and evaluator; print and store a table.

    CM3 starts from the trainer configuration of the data set's last run; `--cm3` goes before it.

    Examples: `cm3 compare demo --seeds 3`, `cm3 compare demo --models cm3 --models lightgcn`,
    `cm3 compare demo --models cm3 --ablations`
    """
    from flows import research
    from schemas.training import ComparisonConfig

    log_to_terminal()
    fields: dict[str, Any] = {"seeds": tuple(range(seeds)), "ablations": ablations, "cm3": cm3, "overrides": overrides}
    fields |= {"models": tuple(models)} if models else {}
    validated(ComparisonConfig, fields)  # what was asked for is judged as it was written
    source = opened(store)
    config = validated(
        ComparisonConfig, fields | {"cm3": _started_from(research.trained_with(source, dataset, searched={}), cm3)}
    )
    rows, path = research.compare(source, dataset, config)
    answer(rows, as_json, _comparison(rows, config.cm3.evaluation), path)


def tune(
    dataset: Dataset,
    model: Annotated[str, typer.Option(help="Recommender.")] = "cm3",
    trials: Annotated[int, typer.Option(min=1, help="Configurations tried at most, over all restarts.")] = 48,
    base: Annotated[
        Any, typer.Option(help="Parameters that stay the same (JSON).", parser=json_object, metavar="JSON")
    ] = "{}",
    space: Annotated[
        Any,
        typer.Option(
            help="Parameter → values to try (JSON); default: the paper's grid.", parser=json_object, metavar="JSON"
        ),
    ] = "null",
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Search hyper-parameters on validation; test is used once, at the end. Run it again to resume a search.

    CM3 starts from the trainer configuration of the data set's last run; `--base` goes before it.

    Example: `cm3 tune demo --trials 20`
    """
    from flows import research
    from schemas.training import TuningConfig

    log_to_terminal()
    config = validated(TuningConfig, {"model": model, "trials": trials, "base": base, "space": space})
    source = opened(store)
    if model == "cm3":
        start = _started_from(research.trained_with(source, dataset, searched=config.space), config.base)
        config = config.model_copy(update={"base": start})
    result = research.tune(source, dataset, config)
    answer(result, as_json, _tuned(result))


def _started_from(trained: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What was given, over the configuration of the last run, which is named where it is none of the defaults."""
    if trained:
        logger.info("CM3 starts from the last run's trainer configuration: %s", json.dumps(trained))
    return trained | given


def _comparison(rows: "list[ComparisonRow]", evaluation: "EvaluationConfig") -> Table:
    metric = f"{evaluation.selection_metric.upper()}@{evaluation.selection_k}"
    cells = {
        "valid": [f"{row.validation:.4f}" for row in rows],
        "runs": [str(row.runs) for row in rows],
        "p vs CM3": ["" if row.p_value is None else f"{row.p_value:.2g}" for row in rows],
        "seconds": [f"{row.seconds:.0f}" for row in rows],
        "parameters": [f"{row.parameters:,}" for row in rows],
    }
    test = [f"{row.mean:.4f} ± {f'{row.spread:.4f}' if row.runs > 1 else '–'}" for row in rows]
    return fitted(
        [
            Shown("model", [row.model for row in rows]),
            Shown(f"test {metric}", test, numeric=True),
            *(Shown(name, column, numeric=True, optional=True) for name, column in cells.items()),
        ]
    )


def _tuned(result: "TuningResult") -> Table:
    title = f"{result.model}: {result.finished} trials, {result.pruned} stopped early"
    table = Table(title=title, title_justify="left")
    table.add_column("chosen on validation")
    table.add_column("value", justify="right")
    for name, value in result.best.items():
        table.add_row(name, str(value))
    table.add_section()
    table.add_row("validation", f"{result.validation:.4f}")
    for name in (name for name in ("ndcg@20", "recall@20", "precision@20", "map@20") if name in result.test):
        table.add_row(f"test {name.upper()}", f"{result.test[name]:.4f}")
    return table
