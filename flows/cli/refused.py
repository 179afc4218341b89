"""`cm3 refused …`: what runs published that a contract kept from becoming the latest."""

import typer
from rich.table import Table

from flows.cli.options import Dataset, JsonOption, StoreOption, answer, opened


def add_to(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(refused)


def refused(dataset: Dataset, store: StoreOption = "store", as_json: JsonOption = False) -> None:
    """Show the tables that a contract refused, run by run, the last one first: `cm3 resolve` finds them by version.

    Example: `cm3 refused shop`
    """
    from flows.summary import unbroken
    from pipeline.run_records import readable
    from schemas.contracts import Refusal

    source = opened(store)
    refusals = list(readable(source, f"{dataset}/_refused/*.json", Refusal))
    table = Table("run", "stopped by", "tables")
    for refusal in refusals:
        why = "\n".join(str(verdict) for verdict in refusal.verdicts if verdict.state == "stopped")
        names = "\n".join(f"{dataset}/{name}@{version}" for name, version in refusal.tables.items())
        table.add_row(f"{refusal.started}\nafter {refusal.stage}", why, names)
    nothing = unbroken(f"Nothing of {dataset} was refused.")
    answer(refusals, as_json, table if refusals else nothing)
