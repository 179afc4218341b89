"""`cm3 plan …` and `cm3 plan-extract …`: what a run, or an extraction, would do, before it does it."""

from rich.console import Group, RenderableType
from rich.table import Table

from flows.cli.options import answer, log_to_terminal, opened
from pipeline.report.wording import size
from schemas.plan import Plan, Step
from schemas.run import FeatureParameters


def plan(parameters: FeatureParameters, *, as_json: bool) -> None:
    """Print what a run or an extraction with these parameters would do."""
    opened(parameters.store)
    from flows import plan as planning  # polars and aiohttp take a second to import, which --help does not need

    log_to_terminal()
    made = planning.plan(parameters)
    answer(made, as_json, terminal(made))


def terminal(made: Plan) -> RenderableType:
    """One row per step, and the sums of what is known."""
    from flows.summary import unbroken  # as in `plan`

    table = Table(title=f"{made.dataset}: {made.items:,} items, {made.interactions:,} interactions")
    for column in ("stage", "work", "amount", "bytes", "time", "cost", "by"):
        table.add_column(column, justify="right" if column in ("amount", "bytes", "time", "cost") else "left")
    for step in made.steps:
        known = "" if step.bytes is None else size(step.bytes)
        cost = "" if step.cost is None else f"{step.cost:,.2f}"
        by = ", ".join(filter(None, (step.basis, step.note)))
        table.add_row(step.stage, step.work, amount(step), known, duration(step.seconds), cost, by)
    end = unbroken(f"at most {duration(made.seconds)} and {made.cost:,.2f} in money, where a figure is known")
    return Group(table, end)


def amount(step: Step) -> str:
    """How much, e.g. `12 texts` or `at most 300 pictures`."""
    if step.at_least == step.at_most:
        return f"{step.at_most:,} {step.unit}"
    return f"{step.at_least:,} to {step.at_most:,} {step.unit}"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
