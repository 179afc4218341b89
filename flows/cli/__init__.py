"""The command line `cm3`: run the main job without a server, find tables, look at them."""

import sys
from collections.abc import MutableMapping
from functools import cache
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup
from typer.exceptions import TyperException

from flows.cli import look, models, research
from schemas.errors import UserError


@cache
def _by_source(verb: str) -> MutableMapping[str, Any]:
    from flows.cli import run  # its options are read from the models of all parameters: other commands start faster

    return typer.main.get_group(getattr(run, f"{verb}_app")).commands


class _BySource(TyperGroup):
    """`cm3 run` or `cm3 extract`, whose commands are made when one of them, or their help, is asked for."""

    @property
    def commands(self) -> MutableMapping[str, Any]:
        return _by_source(str(self.name))

    @commands.setter
    def commands(self, _: MutableMapping[str, Any]) -> None:
        """Typer's constructor sets the empty mapping of the group below."""


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help=__doc__,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for verb, purpose in (
    ("run", "Run the main job in this process, without a server."),
    ("extract", "Make features and similarity alone, from the items: no interactions, no training, no server."),
):
    app.add_typer(typer.Typer(cls=_BySource, no_args_is_help=True, help=purpose), name=verb)
for commands in (look, models, research):
    commands.add_to(app)


def main() -> None:
    """Entry point: a user's error is one paragraph and status 1 (2: a wrong command line), without a stack trace.

    Ctrl-C ends with status 130 and says that the work so far is kept.
    """
    try:
        sys.exit(app(prog_name="cm3", standalone_mode=False))
    except UserError as error:
        _refuse(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        words = "stopped. Finished work is kept: give the same command again to go on from here."
        Console(stderr=True).print(words, highlight=False, soft_wrap=True)
        sys.exit(130)
    except TyperException as error:
        message, context = error.format_message().strip(), getattr(error, "ctx", None)
        if not message:  # no arguments: the help is on the screen already
            sys.exit(error.exit_code)
        advice = f" See `{context.command_path} --help`." if context is not None else ""
        _refuse(f"{message}{'' if message.endswith(('.', '?')) else '.'}{advice}", error.exit_code)


def _refuse(message: str, status: int) -> NoReturn:
    Console(stderr=True).print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(status)
