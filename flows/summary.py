"""What a run made, as a table on the terminal and as Prefect's markdown artifact."""

from collections.abc import Iterable, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.store import Store
from schemas.errors import UserError
from schemas.extract import ExtractSummary
from schemas.run import RunSummary, StageRecord


def terminal(summary: RunSummary) -> RenderableType:
    """The last page of a run: its tables with their rows, what was encoded, the test metrics, the report."""
    figures = Table()
    figures.add_column("test")
    figures.add_column("CM3", justify="right")
    figures.add_column("popularity", justify="right")
    for metric, value in summary.test.items():
        figures.add_row(metric.upper(), f"{value:.4f}", f"{summary.popularity[metric]:.4f}")
    end = unbroken(f"registered: {summary.dataset} version {summary.registered}\nreport:     {summary.report}")
    return Group(overview(summary), work(summary.encoded), figures, end)


def overview(summary: RunSummary | ExtractSummary) -> Table:
    """One row per table: its rows, the share of items that have the feature, and what this run did for it."""
    tables = Table(title=f"{summary.dataset}: {summary.seconds:.0f} s", title_justify="left")
    for column, justify in (("table", "left"), ("rows", "right"), ("coverage", "right"), ("this run", "left")):
        tables.add_column(column, justify=justify)  # type: ignore[arg-type]  # rich's Literal
    for stage in summary.stages:
        share = summary.coverage.get(stage.table.removeprefix("features/")) if "/" in stage.table else None
        tables.add_row(stage.table, f"{stage.rows:,}", "" if share is None else f"{share:.1%}", _work(stage))
    return tables


def work(encoded: Mapping[str, int]) -> Text:
    """How much went through a model."""
    total = sum(encoded.values())
    return Text(
        f"{total:,} contents went through a model" if total else "nothing was encoded again: all of it was known"
    )


def unbroken(text: str) -> Text:
    """Lines that are not wrapped: a path that is broken over lines cannot be copied."""
    return Text(text, no_wrap=True, overflow="ignore")


def markdown(summary: RunSummary) -> str:
    """The same for Prefect's page of the run."""
    figures = [f"| {m.upper()} | {v:.4f} | {summary.popularity[m]:.4f} |" for m, v in summary.test.items()]
    return "\n".join(
        (
            f"# {summary.dataset}: version {summary.registered}",
            f"Report: [{summary.report}]({summary.report})",
            "",
            tables(summary.stages),
            "",
            "| test | CM3 | popularity |",
            "|---|---:|---:|",
            *figures,
        )
    )


def tables(stages: Iterable[StageRecord]) -> str:
    """One row per table, with what its stage counted, in Markdown."""
    rows = [f"| {s.table} | {s.rows:,} | {_work(s)} | {_counts(s)} | `{s.path}` |" for s in stages]
    return "\n".join(("| table | rows | this run | counted | path |", "|---|---:|---|---|---|", *rows))


def last(store: Store, dataset: str) -> RunSummary:
    """The record of the last run that ended.

    Raises:
        UserError: there is none.
    """
    path = f"{store.root}/{dataset}/_runs/latest.json"
    if not store.fs.exists(path):
        names = ", ".join(store.datasets()) or "none yet; `cm3 run demo` makes one"
        raise UserError(f"No finished run of {dataset!r} in {store}. Data sets with tables: {names}.")
    return RunSummary.model_validate_json(store.fs.cat_file(path))


def _work(stage: StageRecord) -> str:
    if stage.reused:
        return "unchanged"
    parts = [f"{stage.seconds:.1f} s"]
    parts += [f"{stage.counts[name]:,.0f} {name}" for name in ("encoded", "downloaded") if name in stage.counts]
    return ", ".join([*parts, f"{stage.rate:,.1f}/s"] if stage.rate else parts)


def _counts(stage: StageRecord) -> str:
    """Every count that is not 0, e.g. `encoded 512, reused 3`."""
    return ", ".join(f"{name} {count:,.6g}" for name, count in stage.counts.items() if count)
