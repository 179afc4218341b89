"""Compare recommenders and tune them on a data set's own tables: compare, tune."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from flows.cli.options import Dataset, JsonOption, StoreOption, answer, json_object, log_to_terminal, opened
from flows.parameters import validated

if TYPE_CHECKING:  # the models of all trainers' parameters, which every other command does without
    from schemas.training import ComparisonRow, EvaluationConfig, TuningResult


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

    Examples: `cm3 compare demo --seeds 3`, `cm3 compare demo --models cm3 --models lightgcn`,
    `cm3 compare demo --models cm3 --ablations`
    """
    from flows import research
    from schemas.training import ComparisonConfig

    log_to_terminal()
    fields: dict[str, Any] = {"seeds": tuple(range(seeds)), "ablations": ablations, "cm3": cm3, "overrides": overrides}
    config = validated(ComparisonConfig, fields | ({"models": tuple(models)} if models else {}))
    rows, path = research.compare(opened(store), dataset, config)
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

    Example: `cm3 tune demo --trials 20`
    """
    from flows import research
    from schemas.training import TuningConfig

    log_to_terminal()
    fields = {"model": model, "trials": trials, "base": base, "space": space}
    result = research.tune(opened(store), dataset, validated(TuningConfig, fields))
    answer(result, as_json, _tuned(result))


def _comparison(rows: "list[ComparisonRow]", evaluation: "EvaluationConfig") -> Table:
    metric = f"{evaluation.selection_metric.upper()}@{evaluation.selection_k}"
    columns = ("runs", "valid", f"test {metric}", "p vs CM3", "seconds", "parameters")
    table = Table("model", *(Column(name, justify="right", no_wrap=True) for name in columns))
    for row in rows:
        table.add_row(
            row.model,
            str(row.runs),
            f"{row.validation:.4f}",
            f"{row.mean:.4f} ± {row.spread:.4f}",
            "" if row.p_value is None else f"{row.p_value:.2g}",
            f"{row.seconds:.0f}",
            f"{row.parameters:,}",
        )
    return table


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
