"""One home for a flow's parameters: a frozen model in `schemas`, shown to Prefect as flat keyword arguments.

Prefect builds a deployment's parameter schema from a function's signature. The functions are made from a list, so there
is no text to write a signature in: `flat` derives it from the model, which keeps allowed values, defaults and
descriptions in one place. The command line does the same in `flows.cli.flags`.
"""

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from schemas.errors import explain

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")


def flat(
    model: type[M],
    body: Callable[..., R],
    *,
    name: str,
    doc: str,
) -> Callable[..., R]:
    """The function `name(*, field=…, …)`, which calls `body(model(field=…, …))`.

    Raises:
        UserError: by the function; a value is wrong, missing or unknown.
    """

    def function(**arguments: Any) -> R:
        return body(validated(model, arguments))

    parameters = [
        Parameter(
            field_name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.is_required() else field.get_default(),
            annotation=field.rebuild_annotation(),
        )
        for field_name, field in shown(model).items()
    ]
    function.__name__ = function.__qualname__ = name
    function.__module__ = body.__module__  # where Prefect looks for the flow
    function.__doc__ = doc
    function.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # read by inspect.signature
    return function


def shown(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields that a person gives, required ones first; `kind` is said by the function's name."""
    fields = {name: field for name, field in model.model_fields.items() if name != "kind"}
    return dict(sorted(fields.items(), key=lambda item: not item[1].is_required()))


def documented(doc: str, model: type[BaseModel]) -> str:
    """A docstring with every field's description as an argument's: Prefect's pages show them beside the fields."""
    described = [f"    {name}: {field.description}" for name, field in shown(model).items() if field.description]
    return "\n".join((doc, "", "Args:", *described))


def validated(model: type[M], fields: dict[str, Any], named: Callable[[str], str] = str) -> M:
    """The model from its fields.

    Args:
        named: from a field's path, such as `trainer.gamma`, to what a message calls it.

    Raises:
        UserError: a value is wrong, missing or unknown; every such field is named with what is allowed.
    """
    try:
        return model(**fields)
    except ValidationError as error:
        raise explain(error, "Parameters", model, named) from error
