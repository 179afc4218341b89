"""`cm3 run …`: the main job in this process."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.cli.options import JsonOption, StoreOption, answer, log_to_terminal, opened, option
from flows.parameters import flat, validated
from schemas import run as runs
from schemas.errors import UserError

app = typer.Typer(no_args_is_help=True, help="Run the main job in this process, without a server.")


def _run(parameters: runs.RunParameters, as_json: bool) -> None:
    opened(parameters.store)
    from flows import (
        job,  # torch and MLflow take seconds to import; --help should not
        summary,  # torch and MLflow take seconds to import; --help should not
    )

    log_to_terminal()
    done = job.run(parameters=parameters)
    answer(done, as_json, summary.terminal(done))


def _add(name: str, model: type[runs.RunParameters], example: str) -> None:
    def from_fields(parameters: runs.RunParameters) -> runs.RunParameters:
        return parameters

    fields = flat(model, _option, documented=False)(from_fields)

    def command(as_json: bool, **given: Any) -> None:
        _run(fields(**given), as_json)

    as_option = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption)
    signature = inspect.signature(fields)
    command.__signature__ = signature.replace(parameters=[*signature.parameters.values(), as_option])  # type: ignore[attr-defined]  # read by inspect
    command.__annotations__ = fields.__annotations__ | {"as_json": JsonOption}
    command.__doc__ = f"{model.__doc__}\n\nExample: `{example}`"
    app.command(name)(command)


def _option(field: FieldInfo) -> Any:
    """As for any field, but the store is found like all other commands find it, in CM3_STORE too."""
    return StoreOption if field.description == runs.RunParameters.model_fields["store"].description else option(field)


_add("demo", runs.DemoParameters, "cm3 run demo")
_add("amazon", runs.AmazonParameters, "cm3 run amazon --category Gift_Cards --raw ./amazon-2018 --models offline")
_add("catalogue", runs.CatalogueParameters, "cm3 run catalogue --raw ./shop --name shop")
_add("movielens", runs.MovieLensParameters, "cm3 run movielens --raw ./movielens-100k --models offline")
_add("microlens", runs.MicroLensParameters, "cm3 run microlens --raw ./MicroLens-50k")
_add("mmrec", runs.MMRecParameters, "cm3 run mmrec --raw ./baby --name baby")

KINDS: dict[str, type[runs.RunParameters]] = {
    "amazon": runs.AmazonParameters,
    "catalogue": runs.CatalogueParameters,
    "demo": runs.DemoParameters,
    "microlens": runs.MicroLensParameters,
    "mmrec": runs.MMRecParameters,
    "movielens": runs.MovieLensParameters,
}


@app.command()
def file(
    path: Annotated[Path, typer.Argument(help="YAML file; docs/how-to/catalogue.example.yaml shows every field.")],
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Run what a YAML file says: the parameters by name, and `kind` (default: catalogue) for the source.

    The file's `store`, where it has one, goes before `--store` and CM3_STORE.

    Example: `cm3 run file shop.yaml`
    """
    fields = {"store": store} | read_yaml(path)
    kind = fields.get("kind", "catalogue")
    if kind not in KINDS:
        raise UserError(f"{path}: kind {kind!r} is none of {', '.join(KINDS)}.")
    if kind == "demo":
        fields.pop("kind")
    _run(validated(KINDS[kind], fields), as_json)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        fields = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}. Give a YAML file, e.g. a copy of docs/how-to/catalogue.example.yaml."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected a YAML file in UTF-8, found other bytes ({error.reason}).") from error
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{place}: expected YAML; {getattr(error, 'problem', None) or error}.") from error
    if not isinstance(fields, dict):
        raise UserError(f"{path}: expected `name: value` lines, found {type(fields).__name__}.")
    return fields
