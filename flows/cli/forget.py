"""`cm3 forget …`: users who must not be in a data set any longer."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import Dataset, JsonOption, StoreOption, answer, log_to_terminal, opened
from schemas.errors import UserError
from schemas.registry import RegistryConfig

if TYPE_CHECKING:
    from schemas.forgetting import Forgetting

SHOWN = 5


def add_to(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(forget)


def forget(
    dataset: Dataset,
    users: Annotated[
        Path, typer.Option(help="UTF-8 text with one user id per line, as the source writes it; - for standard input.")
    ],
    delete: Annotated[bool, typer.Option("--delete", help="Do it; without it, what would go is only listed.")] = False,
    take_back: Annotated[
        bool, typer.Option("--take-back", help="Let the next run take these users from the source again.")
    ] = False,
    tracking: Annotated[
        str | None,
        typer.Option("--registry.tracking", help="MLflow tracking URI of the registry, if the runs were given one."),
    ] = None,
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Forget users: remove every version, report and file that holds them or learned from them.

    The champion is first trained again without them, and served. Later runs leave them out. Killed half-way, it goes on
    when it is called again.

    Examples: `cm3 forget shop --users gone.txt`, `cm3 forget shop --users gone.txt --delete`
    """
    from flows import forget as flow

    ids, source, registry = _ids(users), opened(store), RegistryConfig(tracking=tracking)
    if take_back:
        count = flow.take_back(source, dataset, ids)
        answer({"dataset": dataset, "taken_back": count}, as_json, f"{count:,} users of {dataset} are taken back.")
        return
    if delete:
        log_to_terminal()
        found = flow.run(source, dataset, ids, registry)
    else:
        found = flow.look(source, dataset, ids, registry)
    answer(found, as_json, *_lines(found))


def _ids(file: Path) -> list[str]:
    try:
        text = typer.get_text_stream("stdin").read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: expected UTF-8 text with one user id per line; it cannot be read: {error}") from error
    lines = (line.strip() for line in text.removeprefix("\ufeff").splitlines())
    ids = list(dict.fromkeys(filter(None, lines)))
    if not ids:
        raise UserError(f"{file}: expected one user id per line; it has none.")
    return ids


def _lines(found: "Forgetting") -> list[str]:
    lines = [f"{reference}  {rows:,} rows" if rows else reference for reference, rows in found.versions.items()]
    tables = Counter(reference.partition("@")[0] for reference in found.versions)
    if found.unknown:
        more = "" if len(found.unknown) <= SHOWN else f" and {len(found.unknown) - SHOWN:,} more"
        lines.append(f"in no table of {found.dataset}: {', '.join(found.unknown[:SHOWN])}{more}")
    if found.champion:
        lines.append(found.champion)
    if found.elsewhere:
        lines.append(f"also in {', '.join(found.elsewhere)}: forget them there too")
    numbers = ", ".join(map(str, found.registered)) or "none"
    status = "removed" if found.done else "to remove; add --delete to do it"
    lines.append(
        f"{len(found.versions):,} versions of {len(tables):,} tables, {found.bytes:,} bytes; registered versions: "
        f"{numbers}; {found.reports:,} reports; {found.records:,} records of runs: {status}."
    )
    return lines
