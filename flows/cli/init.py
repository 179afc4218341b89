"""From a strange folder to the parameters of a run: init."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from flows.cli.options import JsonOption, answer
from schemas.errors import UserError

if TYPE_CHECKING:
    from pipeline.ingest.guess.stage import Guess, Line

PLAIN = re.compile(
    r"(?!(?:yes|no|on|off|true|false|null)$)[A-Za-z_./][A-Za-z0-9_./*-]*(?: [A-Za-z0-9_./*-]+)*", re.IGNORECASE
)
"""Texts that YAML reads as they are."""
WIDEST = 44
"""Characters of a line before its comment, where that is possible."""
MORE = """
# models: offline                          # models from installed packages; without it: from the hub
# features: [sentence, clip, caption]      # what is read of an item
# ingest: {min_rating: 4}                  # ratings below do not count as choices
# limit: 100                               # a sample of so many items
# Every parameter: cm3 config file FILE; all of a catalogue: docs/how-to/catalogue.example.yaml
"""


def add_to(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(init)


def init(
    folder: Annotated[Path | None, typer.Argument(help="Folder that holds your items and interactions.")] = None,
    name: Annotated[str, typer.Option(help="Data set's name; default: the folder's.")] = "",
    file: Annotated[Path | None, typer.Option(help="File to write; default: NAME.yaml here.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look at the files of a folder, guess what is what, and write the parameters of a run, with the reasons.

    What it cannot guess is a line to fill in. A file that exists is never overwritten.

    Examples: `cm3 init`, `cm3 init ./shop --yes`
    """
    asks = not (yes or as_json)
    try:
        if folder is None:
            folder = Path(typer.prompt("Folder of your files", default=".") if asks else ".")
        name = slug(name or folder.resolve().name)
        path = file or Path(f"{name}.yaml")
        if path.exists():
            raise UserError(f"{path} exists, and is never overwritten. Give another name with --file, or remove it.")
        from pipeline.ingest.guess.stage import guess

        guessed = guess(folder, name)
        if asks:
            _ask(guessed)
    except typer.Abort as error:
        raise UserError("stopped; nothing was written. With --yes nothing is asked.") from error
    text = written(guessed, path)
    try:
        with path.open("x", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}. Give another place with --file.") from error
    absent = [line.field for line in guessed.lines if line.value is None]
    document = {"file": path, "lines": guessed.lines, "notes": guessed.notes, "fill_in": absent}
    next_step = f"fill in {', '.join(absent)}, then: " if absent else ""
    commands = f"{next_step}cm3 plan file {path}   (what a run would do)\n{' ' * len(next_step)}cm3 run file {path}"
    shown = () if asks else (_table(guessed),)
    answer(document, as_json, *shown, *guessed.notes, f"written: {path}", commands)


def slug(name: str) -> str:
    """A name as data sets have them."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:100] or "shop"


def _ask(guessed: "Guess") -> None:
    """Show the guess, ask for what it lacks, and let the user change lines."""
    answer(None, False, _table(guessed), *guessed.notes)
    for line in [line for line in guessed.lines if line.value is None]:
        guessed.set(line.field, typer.prompt(f"{line.field}: {line.why} (Enter: fill in later)", default="") or None)
    while text := typer.prompt("Change a line, e.g. item_columns.title=name (Enter: write the file)", default=""):
        field, is_given, value = text.partition("=")
        name = field.strip()
        if not (name and is_given):
            answer(None, False, f"{text!r} is no line: expected PARAMETER=VALUE, such as item_columns.title=name.")
            continue
        guessed.set(name, value if name.endswith("separator") else value.strip())


def _table(guessed: "Guess") -> Table:
    table = Table("parameter", "value", "why")
    for line in guessed.lines:
        table.add_row(line.field, "?" if line.value is None else _value(line.value), line.why)
    return table


def written(guessed: "Guess", path: Path) -> str:
    """The YAML file, with the reasons as comments."""
    groups: dict[str, list[Line]] = {}
    for line in guessed.lines:
        groups.setdefault(line.field.split(".")[0], []).append(line)
    text = [f"# Guessed by `cm3 init`. Look through it, then: cm3 run file {path}"]
    for name, lines in groups.items():
        nested = lines[0].field != name
        text += [f"{name}:"] * nested
        text += [_commented("  " * nested + line.field.rpartition(".")[2], line) for line in lines]
    notes = [f"# {_one_line(note)}" for note in guessed.notes]
    return "\n".join([*text, *([""] if notes else []), *notes]) + "\n" + MORE.replace("FILE", str(path))


def _commented(key: str, line: "Line") -> str:
    from flows.cli.run import FILL_IN

    said = f"{key}: {FILL_IN if line.value is None else _value(line.value)}"
    return f"{said:<{WIDEST}} # {_one_line(line.why)}" if line.why else said


def _one_line(text: str) -> str:
    """A text, which may be out of a strange file, as a comment may hold it."""
    return "".join(character if character.isprintable() else " " for character in " ".join(text.split()))


def _value(value: Any) -> str:
    """A value as YAML has it: JSON, which it reads too, or the text itself."""
    return value if isinstance(value, str) and PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)
