"""Options that several commands share."""

import json
import logging
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic_core import to_json
from rich.console import Console, RenderableType
from rich.logging import RichHandler

from flows import logs
from schemas.errors import UserError

if TYPE_CHECKING:
    from pipeline.store import Store

Dataset = Annotated[str, typer.Argument(help="Data set in the store.")]
StoreOption = Annotated[
    str, typer.Option(help="Folder or s3://bucket/prefix that holds the tables.", envvar="CM3_STORE")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, for a machine, and nothing else.")]


def json_object(text: Any) -> Any:
    """A JSON object given on the command line, or `null`.

    Raises:
        typer.BadParameter: it is neither.
    """
    value = _json(text) if isinstance(text, str) else text
    if not isinstance(value, dict | None):
        raise typer.BadParameter(f"expected names with values, such as '{{\"name\": 1}}'; found {text}.")
    return value


def json_text(text: str) -> str:
    """The same text, if it is JSON.

    Raises:
        typer.BadParameter: it is not.
    """
    _json(text)
    return text


def element(text: str) -> str:
    """The same text, one value of a list, or a JSON list of them.

    Raises:
        typer.BadParameter: it begins as such a list, but is none.
    """
    return json_text(text) if text.startswith("[") else text


def entry(text: str) -> str:
    """The same text, `NAME=VALUE` or a JSON object; "" stands for no entry.

    Raises:
        typer.BadParameter: it is neither.
    """
    if text.startswith("{"):
        return json_text(text)
    if text not in ("", "null") and not re.fullmatch(r"[^=]+=[^\"]*", text):
        raise typer.BadParameter(f"expected NAME=VALUE, or JSON such as '{{\"name\": 1}}'; found {text}.")
    return text


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(
            f"expected JSON within single quotes, such as '{{\"name\": 1}}'; found {text} ({error.msg}, character "
            f"{error.pos + 1})."
        ) from error


def opened(uri: str) -> "Store":
    """The store.

    Raises:
        UserError: a remote one does not answer.
    """
    from pipeline.store import Store, failures  # pyarrow and fsspec, which --help does without

    store = Store(uri)
    if not store.is_local:
        try:
            store.fs.exists(store.root)
        except failures() as error:
            raise UserError(
                f"{store} cannot be reached: {error}. Check --store (or CM3_STORE), AWS_ENDPOINT_URL and the keys "
                "in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            ) from error
    return store


def answer(document: Any, as_json: bool, *lines: RenderableType) -> None:
    """Print a command's answer on standard output: `document` (models, lists, mappings) as JSON, or lines of text."""
    if as_json:
        print(to_json(document, indent=2, inf_nan_mode="null").decode())
        return
    for line in lines:
        Console().print(line, soft_wrap=isinstance(line, str), highlight=False, markup=False)


def log_to_terminal() -> None:
    """Show the stages' log lines on standard error: beside progress bars on a terminal, otherwise as plain lines."""
    handler: logging.Handler
    if logs.structured():
        handler = logging.StreamHandler()
        handler.setFormatter(logs.json_lines())
    elif sys.stderr.isatty():
        handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False)
        logging.getLogger("trainers.fit.epochs").setLevel(logging.WARNING)  # a bar shows them
    else:
        handler = logging.StreamHandler()
    logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s")
    logs.show_stages()
