"""The command line `cm3`: run the main job without a server, find tables, look at them."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup
from typer.exceptions import TyperException

from flows.cli import batches, forget, init, look, models, refused, research, serve, up
from schemas.errors import UserError

if TYPE_CHECKING:
    from flows.cli.run import Commands


class _BySource(TyperGroup):
    """`cm3 run` and its like: one command per source, with flags that are read from all parameters' models. They are
    made when they are asked for, so that other commands start faster."""

    words: Sequence[str] = ()

    @property  # type: ignore[override]  # nothing is added to it
    def commands(self) -> "Commands":
        from flows.cli.run import Commands

        return Commands(str(self.name), self.words)

    @commands.setter
    def commands(self, _: object) -> None:
        """Typer's constructor sets the empty mapping of the group below."""

    def get_command(self, _: Any, name: str) -> Any:
        """A command as the list of commands shows it, without flags."""
        return self.commands.described(name) if name in self.commands else None

    def resolve_command(self, context: Any, words: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command for these words, which may name entries of mappings: `--encoders.mine.kind`."""
        self.words = words
        name, command, rest = super().resolve_command(context, words)
        return name, command and self.commands[str(name)], rest


app = typer.Typer(
    no_args_is_help=True,
    help=__doc__,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for verb, purpose in (
    ("run", "Run the main job in this process, without a server."),
    ("extract", "Make features and similarity alone, from the items: no interactions, no training, no server."),
    ("re-extract", "Bring features up to date, and train again only if it pays, without a server."),
    ("plan", "Say what a run would fetch, encode, caption, compare and train, without doing it."),
    ("plan-extract", "Say what `cm3 extract` would fetch, encode, caption and compare, without doing it."),
    ("config", "Print the parameters that result from flags, a file and the defaults, as YAML for `--config`."),
):
    app.add_typer(typer.Typer(cls=_BySource, no_args_is_help=True, help=purpose), name=verb)
for commands in (init, look, serve, models, batches, forget, refused, research, up):
    commands.add_to(app)

INTERRUPTED = 130
"""What typer answers with after Ctrl-C."""


def main() -> None:
    """Entry point: a user's error is one paragraph and status 1 (2: a wrong command line), without a stack trace.

    Ctrl-C ends with status 130 and says that the work so far is kept.
    """
    try:
        status = app(prog_name="cm3", standalone_mode=False)
    except UserError as error:
        _refuse(str(error), 1)
    except TyperException as error:
        message, context = error.format_message().strip(), getattr(error, "ctx", None)
        if not message:  # no arguments: the help is on the screen already
            sys.exit(error.exit_code)
        advice = f" See `{context.command_path} --help`." if context is not None else ""
        _refuse(f"{message}{'' if message.endswith(('.', '?')) else '.'}{advice}", error.exit_code)
    else:
        if status == INTERRUPTED:
            words = "stopped. Finished work is kept: give the same command again to go on from here."
            Console(stderr=True).print(words, highlight=False, soft_wrap=True)
        sys.exit(status)


def _refuse(message: str, status: int) -> NoReturn:
    Console(stderr=True).print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(status)
