"""Secrets that lie in Prefect's blocks: read where the flow runs, and in no parameter that is kept."""

import os
from typing import TypeVar

from prefect.blocks.system import Secret

from schemas.errors import UserError
from schemas.run import FeatureParameters
from schemas.sql import FROM_BLOCK, FROM_ENVIRONMENT

M = TypeVar("M", bound=FeatureParameters)


def opened(parameters: M) -> M:
    """The same parameters, in which an environment variable of this process stands for the block that `sql.url` names.

    Raises:
        UserError: there is no Secret block of that name.
    """
    queries = getattr(parameters, "sql", None)
    if queries is None or not queries.url.startswith(FROM_BLOCK):
        return parameters
    name = queries.url.removeprefix(FROM_BLOCK)
    try:
        secret = Secret.load(name)
    except ValueError as error:
        raise UserError(
            f"sql.url: Prefect has no Secret block {name!r}. Make one that holds the database's address, or give "
            "env:CM3_…_URL."
        ) from error
    variable = f"CM3_BLOCK_{name.upper().replace('-', '_')}_URL"
    os.environ[variable] = str(secret.get())  # type: ignore[union-attr]  # a coroutine only within one
    from_environment = queries.model_copy(update={"url": FROM_ENVIRONMENT + variable})
    return parameters.model_copy(update={"sql": from_environment})
