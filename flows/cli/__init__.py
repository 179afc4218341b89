"""The command line `cm3`: run the main job without a server, find tables, look at what is there."""

import sys
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from typer.exceptions import TyperException

from flows.cli import look, models, research, run
from schemas.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help=__doc__,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.add_typer(run.app, name="run")
for commands in (look, models, research):
    commands.add_to(app)


def main() -> None:
    """Entry point: a user's error is one paragraph and status 1 (2: of the command line itself), no stack trace."""
    try:
        sys.exit(app(standalone_mode=False))
    except UserError as error:
        _refuse(str(error), 1)
    except TyperException as error:
        said, context = error.format_message().strip(), getattr(error, "ctx", None)
        if not said:  # no arguments: the help is on the screen already
            sys.exit(error.exit_code)
        where = f" `{context.command_path} --help` shows what there is." if context is not None else ""
        _refuse(f"{said}{'' if said.endswith(('.', '?')) else '.'}{where}", error.exit_code)


def _refuse(message: str, status: int) -> NoReturn:
    Console(stderr=True).print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(status)
