"""`cm3 run …`: the main job in this process."""

from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.cli.options import JsonOption, StoreOption, answer, log_to_terminal, opened, option
from flows.parameters import flat, validated
from schemas.errors import UserError
from schemas.run import PARAMETERS, RunParameters

app = typer.Typer(no_args_is_help=True, help="Run the main job in this process, without a server.")


AS_JSON = Parameter("as_json", Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption)


def run(parameters: RunParameters, *, as_json: bool) -> None:
    """Run the main job and print what it made."""
    opened(parameters.store)
    from flows import job, summary  # torch and MLflow take seconds to import, which --help does not need

    log_to_terminal()
    record = job.run(parameters=parameters)
    answer(record, as_json, summary.terminal(record))


for kind, model in PARAMETERS.items():
    doc = f"{model.source_type.title}.\n\nExample: `{model.source_type.example}`"
    app.command(kind)(flat(model, run, name=kind, doc=doc, annotation=option, more=[AS_JSON]))


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
    if kind not in PARAMETERS:
        raise UserError(f"{path}: kind {kind!r} is none of {', '.join(sorted(PARAMETERS))}.")
    run(validated(PARAMETERS[kind], fields), as_json=as_json)


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
