"""One flag for every field of a run's parameters, however deep it lies: pydantic-settings finds them and puts together
what is given, typer shows and completes them.

`--trainer.gamma 0.5` gives one field, `--trainer '{"gamma": 0.5}'` several. The flag of a list is given once per value,
or once with JSON; "" gives no value. `null` is nothing. A model that a mapping holds has flags under the name that the
user chooses: `--encoders.mine.kind timm`.
"""

import inspect
import json
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from inspect import Parameter, Signature
from typing import Annotated, Any, Literal, cast

import typer
from pydantic import BaseModel, Field, create_model
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError
from typer.core import TyperCommand

from flows.cli.options import element, entry, json_text
from flows.parameters import validated
from schemas.errors import UserError

COMMON = (
    "raw", "name", "category", "release", "items", "interactions", "item_columns.item_id", "item_columns.title",
    "item_columns.image_url", "interaction_columns.user_id", "interaction_columns.item_id", "models", "features",
    "store", "limit", "ingest.core_k", "trainer.max_epochs",
)  # fmt: skip
"""Fields that most runs give; the help shows their flags first, in this order."""
ANY_NAME = "NAME"
"""Stands in the help for the name that a user chooses."""
WIDEST = 40
"""Characters of allowed values that the help shows beside a flag, at most."""


class FlaggedCommand(TyperCommand):
    """A command whose help is plain text in sections: rich's tables cut the names of flags in a narrow terminal."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the flags, those that most runs give before the others."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            if record := option.get_help_record(ctx):
                sections.setdefault(getattr(option, "rich_help_panel", None) or "Most used", []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def with_flags_of(model_of: Callable[[Sequence[str]], type[BaseModel]]) -> type[TyperCommand]:
    """The class of a command whose options take JSON, and which has a flag for every field within them besides.

    Args:
        model_of: from the words of the command line, a model whose fields are called as those options.
    """

    class Command(FlaggedCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            """Add the flags before the words are read: a plain listing of commands does without them."""
            self.flags = Flags(model_of(args), args)

            def nothing() -> None: ...

            nothing.__signature__ = Signature(self.flags.nested)  # type: ignore[attr-defined]
            self.params = [*self.params, *command("", nothing).params]
            self.rich_markup_mode = None
            return super().parse_args(ctx, args)

        def invoke(self, ctx: Any) -> Any:
            """Call the function with what the flags give over what the JSON gives."""
            values = {option.name: ctx.params.pop(option.name) for option in self.flags.nested}
            lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
            for option, given in self.flags.typed(values | lists).items():
                ctx.params[option] = over(ctx.params[option] or {}, given)
            return super().invoke(ctx)

    return Command


def command(name: str, function: Callable[..., None], kind: type[TyperCommand] = TyperCommand) -> Any:
    """The function as typer's command."""
    is_plain = issubclass(kind, FlaggedCommand)
    app = typer.Typer(rich_markup_mode=None if is_plain else "markdown", context_settings={"max_content_width": 120})
    app.command(name, cls=kind)(function)
    return next(iter(typer.main.get_group(app).commands.values()))


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, in which what is above takes the place of what is below; mappings are joined unless the one above is
    empty, lists are not."""
    joined = {
        name: over(below[name], value)
        for name, value in above.items()
        if value and isinstance(value, Mapping) and isinstance(below.get(name), Mapping)
    }
    return {**below, **above, **joined}


class Flags:
    """The flags of one model's fields.

    Args:
        words: the command line; the names that its flags give to entries of mappings are read from it.

    Attributes:
        parameters: of the function that typer makes a command of; `given` takes their values.
    """

    def __init__(self, model: type[BaseModel], words: Iterable[str] = ()) -> None:
        self.parameters: list[Parameter] = []
        self._model = model
        self._settings = _with_entries(model, words)
        self._fields: dict[str, str] = {}
        self._source: CliSettingsSource[Any] = CliSettingsSource(
            self._settings,
            cli_prog_name="cm3",
            cli_implicit_flags=True,
            root_parser=self,
            add_argument_method=self._add,
            add_argument_group_method=lambda _, title, description: _panel(title, description or ""),
        )
        place = {field: number for number, field in enumerate(COMMON)}
        self.parameters.sort(key=lambda option: place.get(self._fields[option.name], len(place)))

    def given(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The fields whose flags were given, nested as the models are; the values are not validated yet.

        Raises:
            UserError: entries of a mapping cannot be taken apart.
        """
        values = {self._fields[name]: value for name, value in arguments.items() if value not in (None, [])}
        parsed = {field: self._text(field, value) for field, value in values.items()}
        try:
            return dict(self._source(parsed_args=parsed)())
        except SettingsError as error:
            raise UserError(f"{error}. Give these flags as JSON within single quotes.") from error

    @property
    def nested(self) -> list[Parameter]:
        """The parameters of fields within other models."""
        return [option for option in self.parameters if "." in self._fields[option.name]]

    def typed(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """As `given`, with values of the fields' own types.

        Raises:
            UserError: a value is none that its field allows.
        """
        checked = validated(self._model, self.given(arguments), self.flag)
        return checked.model_dump(mode="json", exclude_unset=True)

    def flag(self, field: str) -> str:
        """The flag of a field, e.g. of `item_columns.item_id`; names that a user chose are spelled as they are."""
        parts = field.split(".")
        chosen = 1 if _is_mapping(self._model.model_fields[parts[0]].annotation) else None
        words = [part if place == chosen else part.replace("_", "-") for place, part in enumerate(parts)]
        return f"--{'.'.join(words)}"

    def _text(self, field: str, value: Any) -> Any:
        """What the library reads: the one text of a flag, JSON for a list, entries of a mapping as they are."""
        annotation = _annotation(self._settings, field)
        if value == ["null"]:
            return "null"
        if not isinstance(value, list) or _is_mapping(annotation):
            return "{}" if value == [""] else value
        if value == [""]:
            return "[]"
        items = [item for text in value for item in (json.loads(text) if text.startswith("[") else [text])]
        is_one = len(items) == 1 and not value[0].startswith("[")
        may_be_text = typing.get_origin(annotation) is not tuple and str in typing.get_args(annotation)
        return json.dumps(items[0] if is_one and may_be_text else items)

    def _add(self, panel: Any, *_: str, dest: str, metavar: str = "", help: str = "", **more: Any) -> None:
        """Called by the library for each field, with what it would tell argparse.

        Args:
            panel: the title of the model that holds the field; this object for fields of the outermost.
        """
        if dest == "kind":  # the command's name says it
            return
        annotation = _annotation(self._settings, dest)
        is_model, is_switch, is_list = more.get("nargs") == "?", not metavar, more.get("action") == "append"
        choices, flag = _choices(annotation), self.flag(dest)
        option = typer.Option(
            f"{flag}/--no-{flag.removeprefix('--')}" if is_switch else flag,
            help=f"Several of these, as JSON: {flag} '{{\"name\": 1}}'." if is_model else _plain(help),
            metavar=None if is_switch else _metavar(metavar, choices) + "..." * is_list,
            rich_help_panel=None if dest in COMMON else panel if isinstance(panel, str) else "more",
            show_default=False,
            parser=json_text if is_model else entry if _is_mapping(annotation) else element if is_list else None,
            autocompletion=(lambda: choices) if choices else None,
        )
        kind: Any = bool | None if is_switch else list[str] if is_list else str | None
        name = f"option_{len(self._fields)}"
        self._fields[name] = dest
        self.parameters.append(
            Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])
        )


def _with_entries(model: type[BaseModel], words: Iterable[str]) -> type[BaseSettings]:
    """The model as settings, in which each mapping to models has a field for every name that is used."""
    mappings: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        arguments = typing.get_args(field.annotation)
        if typing.get_origin(field.annotation) is dict and _model(arguments[1]):
            used = re.findall(rf"^--{name.replace('_', '-')}\.([^.=\s]+)\.", "\n".join(words), re.MULTILINE)
            held: dict[str, Any] = dict.fromkeys([ANY_NAME, *used], (arguments[1] | None, None))
            mappings[name] = (create_model("Entries", **held) | None, Field(None, description=field.description))
    return cast(type[BaseSettings], create_model("Settings", __base__=(model, BaseSettings), **mappings))


def _annotation(model: Any, field: str) -> Any:
    """The annotation of a field, named by its path such as `trainer.gamma`."""
    for part in field.split("."):
        annotation = model.model_fields[part].annotation
        model = _model(annotation)
    return annotation


def _model(annotation: Any) -> Any:
    """The model that a field holds, or may hold; None if it holds something else."""
    inside = (annotation, *typing.get_args(annotation))
    return next((a for a in inside if inspect.isclass(a) and issubclass(a, BaseModel)), None)


def _is_mapping(annotation: Any) -> bool:
    return any(typing.get_origin(a) is dict for a in (annotation, *typing.get_args(annotation)))


def _choices(annotation: Any) -> list[str]:
    """The values that a field allows, where they can be listed."""
    if inspect.isclass(annotation) and issubclass(annotation, Enum):
        return [str(member.value) for member in annotation]
    if typing.get_origin(annotation) is Literal:
        return [str(value) for value in typing.get_args(annotation)]
    return [] if _is_mapping(annotation) else [c for a in typing.get_args(annotation) for c in _choices(a)]


def _panel(title: str, description: str) -> str:
    """The title of the help's section for one model, from what argparse would show."""
    words = title.removesuffix(" options"), description.removeprefix("default: null (undefined)").strip().rstrip(".")
    return ": ".join(filter(None, words))


def _metavar(types: str, choices: list[str]) -> str:
    """What stands for a flag's value in the help."""
    if choices:
        return listed if len(listed := "|".join(choices)) <= WIDEST else "NAME"
    if "dict[" in types:
        return "NAME=VALUE"
    shown = {"JSON": "JSON", "int": "INTEGER", "float": "FLOAT"}
    return next((word for name, word in shown.items() if name in types), "TEXT")


def _plain(text: str) -> str:
    """The library's words without Python's spelling of values."""
    text = text.replace("(ifdef: required)", "(required)").replace("(default: None)", "(default: null)")
    listed = re.sub(r"\(default: \((.*?),?\)\)$", lambda found: f"(default: {found[1].replace(chr(39), '')})", text)
    return re.sub(r" ?\(default: (\{\})?\)$", "", listed).replace("\\\\", "\\")
