"""A local server with every deployment: up."""

from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(up)


def up(port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the server's pages and API.")] = 4200) -> None:
    """Start a Prefect server on this machine and serve every deployment, until Ctrl-C.

    From another terminal, `prefect deployment run ingest-and-train/demo --watch` starts a run, as it prints.

    Examples: `cm3 up`, `cm3 up --port 4300`
    """
    from flows import local

    local.up(port)
