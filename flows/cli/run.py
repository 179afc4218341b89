"""`cm3 run`, `extract`, `re-extract`, their plans and `config`: a command per source, with parameters as flags."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter, Signature
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.cli.flags import FlaggedCommand, Flags, command, over
from flows.cli.options import JsonOption, answer, log_to_terminal, opened
from flows.cli.plan import plan
from flows.parameters import validated
from schemas.errors import UserError
from schemas.extract import PARAMETERS as EXTRACT_PARAMETERS
from schemas.extract import ExtractParameters
from schemas.re_extract import PARAMETERS as RE_EXTRACT_PARAMETERS
from schemas.re_extract import ReExtractParameters
from schemas.run import PARAMETERS, FeatureParameters, RunParameters

FILL_IN = "FILL-IN"
"""What `cm3 init` writes where it could not guess."""
AS_JSON = Parameter("as_json", Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption)
CONFIG = Parameter(
    "config",
    Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None, typer.Option(help="YAML file of parameters; flags override it, and it overrides the defaults.")
    ],
)


PATH = Parameter(
    "path",
    Parameter.POSITIONAL_OR_KEYWORD,
    annotation=Annotated[
        Path,
        typer.Argument(metavar="PATH", help="YAML file; docs/how-to/catalogue.example.yaml shows every field."),
    ],
)


def run(parameters: RunParameters, *, as_json: bool) -> None:
    """Run the main job and print what it made."""
    opened(parameters.store)
    from flows import job, summary  # torch and MLflow take seconds to import, which --help does not need

    log_to_terminal()
    record = job.run(parameters=parameters)
    answer(record, as_json, summary.terminal(record))


def extract(parameters: ExtractParameters, *, as_json: bool) -> None:
    """Make features alone and print what was made."""
    opened(parameters.store)
    from flows import extract as flow  # as in `run`

    log_to_terminal()
    record = flow.run(parameters=parameters)
    answer(record, as_json, flow.terminal(record))


def re_extract(parameters: ReExtractParameters, *, as_json: bool) -> None:
    """Bring features up to date, train again if it pays, and print what was done."""
    opened(parameters.store)
    from flows import re_extract as flow  # as in `run`

    log_to_terminal()
    record = flow.run(parameters=parameters, retrain=parameters.retrain)
    answer(record, as_json, flow.terminal(record))


def config(parameters: ReExtractParameters, *, as_json: bool) -> None:
    """Print every parameter, as `cm3 run file` takes it."""
    values = parameters.model_dump(mode="json")
    fields = {"kind": values.pop("kind"), **values}
    text = StringIO()
    YAML().dump(fields, text)
    answer(fields, as_json, text.getvalue().rstrip())


class Commands(Mapping[str, Any]):
    """The commands of one verb, by kind of source, and `file`: each is made when it is asked for.

    Args:
        words: the command line.
    """

    def __init__(self, verb: str, words: Sequence[str] = ()) -> None:
        self._verb, self._words = verb, words
        self._models, self._body = VERBS[verb]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._models, "file"))

    def __len__(self) -> int:
        return len(self._models) + 1

    def __getitem__(self, name: str) -> Any:
        return command(name, self._file() if name == "file" else self._of_source(name), FlaggedCommand)

    def described(self, name: str) -> Any:
        """A command without its flags, for a list of commands."""

        def nothing() -> None: ...

        nothing.__doc__ = "What a YAML file says." if name == "file" else f"{self._models[name].source_type.title}."
        return command(name, nothing)

    def _of_source(self, kind: str) -> Callable[..., None]:
        """A function with a parameter for every field of the source's parameters."""
        model = self._models[kind]
        flags = Flags(model, self._words)

        def function(*, config: Path | None, as_json: bool, **arguments: Any) -> None:
            self._act(kind, flags, config, arguments, as_json=as_json)

        example = model.source_type.example.replace("cm3 run", f"cm3 {self._verb}")
        function.__doc__ = f"""{model.source_type.title}.

        Examples: `{example}`, `cm3 {self._verb} {kind} --config {kind}.yaml {_example_flag(model)}`
        """
        function.__signature__ = Signature([*flags.parameters, CONFIG, AS_JSON])  # type: ignore[attr-defined]
        return function

    def _file(self) -> Callable[..., None]:
        """The same, where the file names the kind of source: whose flags there are, a look into it says beforehand."""
        kind = "catalogue"
        likely = [*self._words[1:2], *(word for word in self._words[1:] if word.endswith((".yaml", ".yml")))]
        files = (word for word in likely if os.path.isfile(word))  # noqa: PTH113 - Path.is_file fails for a long word
        if path := next(files, None):
            with contextlib.suppress(UserError):  # said when the command is run
                kind = self._kind_in(Path(path))
        flags = Flags(self._models[kind], self._words)

        def file(path: Path, *, as_json: bool, **arguments: Any) -> None:
            self._kind_in(path)
            self._act(kind, flags, path, arguments, as_json=as_json)

        file.__doc__ = f"""What a YAML file says: parameters by name, and `kind` (default: catalogue) for the source.

        Flags override the file. Examples: `cm3 {self._verb} file shop.yaml`,
        `cm3 {self._verb} file shop.yaml {_example_flag(self._models[kind])}`
        """
        file.__signature__ = Signature([PATH, *flags.parameters, AS_JSON])  # type: ignore[attr-defined]
        return file

    def _act(
        self, kind: str, flags: Flags, config: Path | None, arguments: Mapping[str, Any], *, as_json: bool
    ) -> None:
        """Do what the verb says with what the flags, the file, CM3_STORE and the defaults give, in this order."""
        model = self._models[kind]
        file, given = {} if config is None else of_kind(kind, model, config), flags.given(arguments)

        def named(field: str) -> str:
            return f"{config}: {field}" if _holds(file, field) and not _holds(given, field) else flags.flag(field)

        fields = {name: value for name, value in {"store": os.environ.get("CM3_STORE")}.items() if value}
        try:
            parameters = validated(model, over(over(fields, file), given), named)
        except UserError as error:
            raise UserError(f"{str(error).rstrip('.')}. See `cm3 {self._verb} {kind} --help`.") from error
        self._body(parameters, as_json=as_json)

    def _kind_in(self, path: Path) -> str:
        kind = str(read_yaml(path).get("kind", "catalogue"))
        if kind not in self._models:
            raise UserError(f"{path}: kind {kind!r} is none of {', '.join(sorted(self._models))}.")
        return kind


def _example_flag(model: type[FeatureParameters]) -> str:
    return "--trainer.gamma 0.5" if "trainer" in model.model_fields else "--similarity.k 20"


VERBS: dict[str, tuple[Mapping[str, type[FeatureParameters]], Callable[..., None]]] = {
    "run": (PARAMETERS, run),
    "extract": (EXTRACT_PARAMETERS, extract),
    "re-extract": (RE_EXTRACT_PARAMETERS, re_extract),
    "plan": (PARAMETERS, plan),
    "plan-extract": (EXTRACT_PARAMETERS, plan),
    "config": (RE_EXTRACT_PARAMETERS, config),
}
"""Command → the parameters that it takes, by kind of source, and what it does with them."""


def of_kind(kind: str, model: type[FeatureParameters], path: Path) -> dict[str, Any]:
    """The fields of a model that a YAML file gives.

    Raises:
        UserError: it cannot be read, or is about another kind of source.
    """
    fields = read_yaml(path)
    if (other := fields.setdefault("kind", kind)) != kind:
        raise UserError(f"{path}: its kind is {other!r}, not {kind!r}. Give a file for {kind}, or the command {other}.")
    return taken(model, fields)


def taken(model: type[FeatureParameters], fields: dict[str, Any]) -> dict[str, Any]:
    """The fields without those that only other commands take: one file may serve a training and an extraction."""
    of_others = ReExtractParameters.model_fields.keys() - model.model_fields.keys()
    return {name: value for name, value in fields.items() if name not in of_others}


def _holds(fields: Any, path: str) -> bool:
    """Whether a field, named by its path, or the mapping that it would be in, is among the fields."""
    for part in path.split("."):
        if not isinstance(fields, Mapping) or part not in fields:
            return False
        fields = fields[part]
    return True


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        fields = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Give a YAML file, e.g. one that `cm3 init` wrote.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected a YAML file in UTF-8, found other bytes ({error.reason}).") from error
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{place}: expected YAML; {getattr(error, 'problem', None) or error}.") from error
    if not isinstance(fields, dict):
        raise UserError(f"{path}: expected `name: value` lines, found {type(fields).__name__}.")
    if absent := list(_to_fill_in(fields)):
        raise UserError(f"{path}: fill in {', '.join(absent)}: it says {FILL_IN}, as `cm3 init` could not guess it.")
    return fields


def _to_fill_in(fields: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The paths of fields that nobody has filled in."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _to_fill_in(value, f"{path}{name}.")
        elif value == FILL_IN:
            yield f"{path}{name}"
