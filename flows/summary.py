"""What a run made, as a table on the terminal and as Prefect's markdown artifact."""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.ingest.readable import WARNED
from pipeline.run_records import record
from pipeline.store import Store
from schemas.contracts import Verdict
from schemas.errors import UserError
from schemas.extract import ExtractSummary
from schemas.re_extract import ReExtractSummary
from schemas.run import RunSummary, StageRecord
from schemas.tables import ImageStatus

OF_INTERACTIONS = ("rating_", "timestamp_")
"""Beginnings of ingest's rules about interactions."""


def terminal(summary: RunSummary) -> RenderableType:
    """The last page of a run: its tables with their rows, what was encoded, the test metrics, the report."""
    figures = Table()
    figures.add_column("test")
    figures.add_column("CM3", justify="right")
    figures.add_column("popularity", justify="right")
    for metric, value in summary.test.items():
        figures.add_row(metric.upper(), f"{value:.4f}", f"{summary.popularity[metric]:.4f}")
    end = unbroken(f"registered: {summary.dataset} version {summary.registered}\nreport:     {summary.report}")
    said = [contracts(summary.verdicts), work(summary.encoded), *map(Text, doubts(summary.stages))]
    return Group(overview(summary), *said, figures, end)


def contracts(verdicts: Sequence[Verdict]) -> Text:
    """One line for each contract that is broken; one line if none is."""
    broken = [f"contract {verdict.state}: {verdict}" for verdict in verdicts if verdict.state != "kept"]
    return unbroken("\n".join(broken) or f"contracts: {len(verdicts)} figures within their limits")


def overview(summary: RunSummary | ExtractSummary | ReExtractSummary) -> Table:
    """One row per table: its rows, the share of items that have the feature, and what this run did for it."""
    coverage = {} if isinstance(summary, ReExtractSummary) else summary.coverage
    tables = Table(title=f"{summary.dataset}: {summary.seconds:.0f} s", title_justify="left")
    for column, justify in (("table", "left"), ("rows", "right"), ("coverage", "right"), ("this run", "left")):
        tables.add_column(column, justify=justify)  # type: ignore[arg-type]  # rich's Literal
    for stage in summary.stages:
        share = coverage.get(stage.table.removeprefix("features/")) if "/" in stage.table else None
        tables.add_row(stage.table, f"{stage.rows:,}", "" if share is None else f"{share:.1%}", _work(stage))
    return tables


def work(encoded: Mapping[str, int]) -> Text:
    """How much went through a model."""
    total = sum(encoded.values())
    return Text(
        f"{total:,} contents went through a model" if total else "nothing was encoded again: all of it was known"
    )


def doubts(stages: Iterable[StageRecord]) -> list[str]:
    """What a person should look at, a sentence each: columns of which much could not be read, and pictures that were
    left out as placeholders. The table `quality` has the examples."""
    of_table = {stage.table: stage for stage in stages if stage.counts or stage.table == "interactions"}
    ingested, images = of_table.get("items"), of_table.get("images")
    sentences = []
    for rule, count in ingested.counts.items() if ingested else ():
        table = "interactions" if rule.startswith(OF_INTERACTIONS) else "items"
        rows = of_table[table].rows if table in of_table else 0
        if rule.endswith("_unreadable") and count > WARNED * rows:
            sentences.append(f"Doubtful: {rule} {count:,.0f} times, in {rows:,} {table}; see the table quality.")
    if images and (count := images.counts.get(ImageStatus.PLACEHOLDER, 0)):
        sentences.append(
            f"Left out: the pictures of {count:,.0f} of {images.rows:,} items, which too many of them share; see the "
            "table quality, and images.placeholder_share."
        )
    return sentences


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
            *(f"{sentence}\n" for sentence in doubts(summary.stages)),
            contract_rows(summary.verdicts),
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


def contract_rows(verdicts: Sequence[Verdict]) -> str:
    """One row per contract and part, the broken ones first, in Markdown."""
    if not verdicts:
        return "No contract was judged."
    rows = [
        f"| {v.rule} | {v.part} | {v.amount(v.figure)} | {v.amount(v.limit)} | {v.state} | {cell(v.examples)} |"
        for v in sorted(verdicts, key=lambda verdict: verdict.state == "kept")
    ]
    return "\n".join(("| contract | of | figure | limit | state | examples |", "|---|---|---:|---:|---|---|", *rows))


def cell(examples: Sequence[str]) -> str:
    """Ids within a row of a Markdown table."""
    return ", ".join("`" + " ".join(e.replace("|", "¦").replace("`", "'").split()) + "`" for e in examples)


def last(store: Store, dataset: str) -> RunSummary:
    """The record of the last run that ended.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = f"{store.folder(dataset)}/_runs/latest.json"
    if not store.fs.exists(path):
        names = ", ".join(store.datasets()) or "none yet; `cm3 run demo` makes one"
        raise UserError(f"No finished run of {dataset!r} in {store}. Data sets with tables: {names}.")
    return record(store, path, RunSummary)


def _work(stage: StageRecord) -> str:
    if stage.reused:
        return "unchanged"
    parts = [f"{stage.seconds:.1f} s"]
    parts += [f"{stage.counts[name]:,.0f} {name}" for name in ("encoded", "downloaded") if name in stage.counts]
    return ", ".join([*parts, f"{stage.rate:,.1f}/s"] if stage.rate else parts)


def _counts(stage: StageRecord) -> str:
    """Every count that is not 0, e.g. `encoded 512, reused 3`."""
    return ", ".join(f"{name} {count:,.6g}" for name, count in stage.counts.items() if count)
