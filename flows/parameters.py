"""One home for a flow's parameters: a frozen model in `schemas`, shown to Prefect and typer as flat keyword arguments.

Prefect builds a deployment's parameter schema, and typer a command's options, from a function's signature. Deriving
that signature from the model keeps the allowed values, defaults and descriptions in one place.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from schemas.errors import explain

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")


def flat(
    model: type[M], annotation: Callable[[FieldInfo], Any] = FieldInfo.rebuild_annotation, *, documented: bool = True
) -> Callable[[Callable[[M], R]], Callable[..., R]]:
    """Turn `f(parameters: model)` into `f(field=…, …)`; wrong values raise a `UserError` that names the field.

    Args:
        annotation: what a field's annotation becomes; by default the field's own, constraints included.
        documented: put the fields' descriptions into the docstring, where Prefect looks for them.
    """

    def decorate(function: Callable[[M], R]) -> Callable[..., R]:
        def flattened(**fields: Any) -> R:
            return function(validated(model, fields))

        parameters = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.is_required() else field.get_default(),
                annotation=annotation(field),
            )
            for name, field in model.model_fields.items()
            if name != "kind"  # tells sources apart in a file; here the function does
        ]
        flattened.__name__ = flattened.__qualname__ = function.__name__
        flattened.__module__ = function.__module__
        flattened.__doc__ = _documented(function.__doc__ or "", model) if documented else function.__doc__
        flattened.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect
        flattened.__annotations__ = {p.name: p.annotation for p in parameters}
        return flattened

    return decorate


def validated(model: type[M], fields: dict[str, Any]) -> M:
    """The model from its fields.

    Raises:
        UserError: a value is wrong, missing or unknown; every such field is named with what is allowed.
    """
    try:
        return model(**fields)
    except ValidationError as error:
        raise explain(error, "Parameters", model) from error


def _documented(doc: str, model: type[BaseModel]) -> str:
    """The docstring with every field's description as an argument's: Prefect's pages show them beside the fields."""
    described = [
        f"    {name}: {field.description}"
        for name, field in model.model_fields.items()
        if field.description and name != "kind"
    ]
    return "\n".join((doc.rstrip(), "", "Args:", *described))
