"""The one exception whose message is meant for a person."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from inspect import isclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


class UserError(Exception):
    """Something the user can fix: the message names the thing, what was expected, what was found and what to do.

    The command line and the flows print the message without a stack trace and exit non-zero.
    """


class StoreError(UserError):
    """The store could not be written: disk full, no permission, S3 unreachable. A later try may succeed."""


class TooFewInteractionsError(UserError):
    """Too few users, items or interactions are there to train on."""


class ContractError(UserError):
    """A contract stopped the run: `latest` and the champion are as they were. Trying again gives the same answer.

    Args:
        verdicts: `schemas.contracts.Verdict`s, broken or not.
    """

    def __init__(self, message: str, verdicts: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.verdicts = verdicts


class ClusterError(UserError):
    """The workers or the scheduler of a cluster cannot be reached. A later try may succeed."""


def explain(
    error: ValidationError, what: str, model: type[BaseModel] | None = None, named: Callable[[str], str] = str
) -> UserError:
    """One line for each refused parameter: its name, what was given and what is allowed.

    Args:
        model: what was validated; with it, an unknown name is answered with the nearest valid names.
        named: from a parameter's path, such as `trainer.gamma`, to what the message calls it.
    """
    lines = []
    for problem in error.errors(include_url=False):
        path = ".".join(str(part) for part in problem["loc"])
        field = named(path) if path else what
        if problem["type"] == "extra_forbidden":
            lines.append(f"{field}: there is no such parameter{_nearest(model, problem['loc'])}")
            continue
        whole = problem["type"] == "value_error" and isinstance(problem["input"], dict)  # the message says which part
        given = "" if whole or problem["type"] == "missing" else f" (given: {problem['input']!r})"
        lines.append(f"{field}: {_PLAIN.get(problem['type'], problem['msg'].removeprefix('Value error, '))}{given}")
    if len(lines) == 1:
        return UserError(f"{what} refused before any work: {lines[0]}")
    return UserError(f"{what} refused before any work:\n" + "\n".join(f"  {line}" for line in lines))


_PLAIN = {
    "missing": "must be given",
    "tuple_type": "expected a list, e.g. [1, 2]",
    "dict_type": 'expected names with values, e.g. {"name": 1}',
    "model_type": 'expected parameters with values, e.g. {"name": 1}',
}
"""Plain words where pydantic's message names Python types, which somebody who wrote JSON or YAML does not know."""


def _nearest(model: Any, place: tuple[int | str, ...]) -> str:
    """`; did you mean …?` or all valid names; empty if the model that holds `place` cannot be told."""
    for part in place[:-1]:
        annotation = getattr(model, "model_fields", {}).get(part)
        inside = () if annotation is None else (annotation.annotation, *get_args(annotation.annotation))
        model = next((type_ for type_ in inside if isclass(type_) and issubclass(type_, BaseModel)), None)
    names = list(getattr(model, "model_fields", {}))
    near = get_close_matches(str(place[-1]), names, n=2)
    return f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(names)}" if names else ""
