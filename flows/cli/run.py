"""`cm3 run …` and `cm3 extract …`: the main job, or features alone, in this process."""

from collections.abc import Callable, Mapping
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.cli.options import JsonOption, StoreOption, answer, log_to_terminal, opened, option
from flows.parameters import flat, validated
from schemas.errors import UserError
from schemas.extract import PARAMETERS as EXTRACT_PARAMETERS
from schemas.extract import ExtractParameters
from schemas.run import PARAMETERS, FeatureParameters, RunParameters

M = TypeVar("M", bound=FeatureParameters)

AS_JSON = Parameter("as_json", Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption)


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


def commands(verb: str, models: Mapping[str, type[M]], body: Callable[..., None]) -> typer.Typer:
    """One command per source, which calls `body`; and `file`, for parameters in YAML."""
    app = typer.Typer(no_args_is_help=True)
    for kind, model in models.items():
        example = model.source_type.example.replace("cm3 run", f"cm3 {verb}")
        doc = f"{model.source_type.title}.\n\nExample: `{example}`"
        app.command(kind)(flat(model, body, name=kind, doc=doc, annotation=option, more=[AS_JSON]))

    def file(
        path: Annotated[Path, typer.Argument(help="YAML file; docs/how-to/catalogue.example.yaml shows every field.")],
        store: StoreOption = "store",
        as_json: JsonOption = False,
    ) -> None:
        fields = {"store": store} | read_yaml(path)
        kind = fields.get("kind", "catalogue")
        if kind not in models:
            raise UserError(f"{path}: kind {kind!r} is none of {', '.join(sorted(models))}.")
        # One file may serve a training and an extraction: what only a training takes is left out here.
        of_training = RunParameters.model_fields.keys() - models[kind].model_fields.keys()
        known = {name: value for name, value in fields.items() if name not in of_training}
        body(validated(models[kind], known), as_json=as_json)

    file.__doc__ = f"""What a YAML file says: the parameters by name, and `kind` (default: catalogue) for the source.

    The file's `store`, where it has one, goes before `--store` and CM3_STORE.

    Example: `cm3 {verb} file shop.yaml`
    """
    app.command()(file)
    return app


run_app = commands("run", PARAMETERS, run)
extract_app = commands("extract", EXTRACT_PARAMETERS, extract)


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
