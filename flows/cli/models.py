"""The registry: versions, diff, promote, rollback, gc."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.table import Table

from flows.cli.options import Dataset, JsonOption, StoreOption, answer, log_to_terminal, opened
from flows.cli.tables import Shown, fitted
from schemas.errors import UserError

if TYPE_CHECKING:
    from schemas.diff import Diff, Pair

LEAST = 5e-5
"""The least difference that four decimals show."""


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (versions, diff, promote, rollback, gc):
        app.command()(command)


def versions(dataset: Dataset, store: StoreOption = "store", as_json: JsonOption = False) -> None:
    """List the registered versions of a data set, with their aliases and why they have them.

    Example: `cm3 versions demo`
    """
    from pipeline.registry.versions import registered

    source = opened(store)
    entries = registered(source, dataset)
    if not entries:
        datasets = ", ".join(source.datasets()) or "none"
        raise UserError(f"{dataset} has no registered version in {source}; `cm3 run` makes one. Data sets: {datasets}.")
    table = Table("version", "alias", "valid NDCG@20", "items", "why")
    for version in entries:
        table.add_row(
            str(version.number), version.alias, f"{version.validation_ndcg:.4f}", f"{version.items:,}", version.reason
        )
    answer(entries, as_json, table)


def diff(
    dataset: Dataset,
    a: Annotated[str, typer.Argument(help="Registry version number, or an alias.")],
    b: Annotated[str, typer.Argument(help="Registry version number, or an alias.")],
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Compare two registered versions: what differs in items, coverage, metrics, neighbours, and how far vectors moved.

    Example: `cm3 diff demo champion challenger`
    """
    from pipeline.registry import diff as differences

    result = differences.run(store=opened(store), dataset=dataset, a=a, b=b)
    answer(result, as_json, *_differences(result))


def promote(
    dataset: Dataset,
    version: Annotated[str, typer.Argument(help="Registry version number, or `challenger`.")],
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Make a registered version the champion, after checking its files against their checksums.

    Example: `cm3 promote demo challenger`
    """
    from pipeline.registry import versions as registry

    promoted = registry.promote(opened(store), dataset, version)
    answer(promoted, as_json, f"{dataset} version {promoted.number} is champion.")


def rollback(dataset: Dataset, store: StoreOption = "store", as_json: JsonOption = False) -> None:
    """Give `champion` back to the version that held it before.

    Example: `cm3 rollback demo`
    """
    from pipeline.registry import versions as registry

    previous = registry.rollback(opened(store), dataset)
    answer(previous, as_json, f"{dataset} version {previous.number} is champion again.")


def gc(
    dataset: Dataset,
    keep: Annotated[
        int, typer.Option(min=1, help="How many of each table's newest versions, and of the registered ones, stay.")
    ] = 3,
    delete: Annotated[bool, typer.Option("--delete", help="Delete them; without it they are only listed.")] = False,
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """List, or delete, versions that no alias names and that are not among the newest.

    Examples: `cm3 gc demo`, `cm3 gc demo --keep 5 --delete`
    """
    from flows.exclusive import alone
    from pipeline.registry import garbage

    source = opened(store)
    if not source.tables(dataset):
        raise UserError(f"No data set {dataset!r} in {source}. Data sets: {', '.join(source.datasets()) or 'none'}.")
    if delete:
        log_to_terminal()  # says that it waits for a run
        with alone(source, dataset), source.locked(dataset):
            unneeded = garbage.remove(source, garbage.unneeded(source, dataset, keep))
        source.remove_abandoned_staging()
    else:
        unneeded = garbage.unneeded(source, dataset, keep)
    size = sum(version.size for version in unneeded)
    lines = [f"{version.table}@{version.version}  {version.created}  {version.size:,} bytes" for version in unneeded]
    status = "deleted" if delete else "to delete; add --delete to do it"
    record = {"versions": unneeded, "bytes": size, "deleted": delete}
    answer(record, as_json, *lines, f"{len(unneeded)} versions, {size:,} bytes {status}.")


def _differences(result: "Diff") -> Iterator[RenderableType]:
    """A table of what differs, where anything does, and one line that names what is the same."""
    rows: dict[str, tuple[str, str, str]] = {}
    same: list[str] = []
    if result.items_only_a or result.items_only_b:
        rows["items"] = _counts(result.items_both, result.items_only_a, result.items_only_b)
    else:
        same.append("items")
    for kind, pairs in (("coverage", result.coverage), ("metrics", result.metrics)):
        different = {name: pair for name, pair in pairs.items() if _differs(pair)}
        if len(different) < len(pairs):
            same.append(f"{len(pairs) - len(different) if different else 'all'} {kind}")
        for name, pair in different.items():
            label = f"coverage {name}" if kind == "coverage" else name
            rows[label] = (_figure(pair.a), _figure(pair.b), _figure(pair.change))
    for name, whole in (("neighbor_overlap", 1.0), ("graph_overlap", 1.0), ("drift", 0.0)):
        value, label = getattr(result, name), name.replace("_", " ")
        if value is not None and abs(value - whole) < LEAST:
            same.append("no drift" if name == "drift" else f"{label} 1")
        else:
            rows[label] = ("", "", _figure(value))
    if rows:
        columns = [list(column) for column in zip(*rows.values(), strict=True)]
        names = (str(result.a), str(result.b), "change")
        yield fitted(
            [
                Shown(f"{result.dataset}: {result.a} → {result.b}", list(rows)),
                *(Shown(name, cells, numeric=True) for name, cells in zip(names, columns, strict=True)),
            ]
        )
    if same:
        yield f"the same: {', '.join(same)}"


def _differs(pair: "Pair") -> bool:
    return (pair.a is None) != (pair.b is None) or (pair.change is not None and abs(pair.change) >= LEAST)


def _counts(both: int, only_a: int, only_b: int) -> tuple[str, str, str]:
    return f"{both + only_a:,}", f"{both + only_b:,}", f"{only_b - only_a:+,}"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
