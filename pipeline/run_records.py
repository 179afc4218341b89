"""The records that runs leave in the store: `<data set>/_runs/<started>.json`, and the newest of each flow by name."""

import logging
from collections.abc import Iterator
from typing import TypeVar

from pydantic import BaseModel

from pipeline.store import Store
from schemas.errors import UserError
from schemas.run import RunRecord

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=BaseModel)


def record(store: Store, path: str, model: type[R]) -> R:
    """The record at a path of the store's file system.

    Raises:
        UserError: it is damaged.
    """
    try:
        return model.model_validate_json(store.fs.cat_file(path))
    except ValueError as error:
        raise UserError(
            f"{path} is no record of a run ({str(error).splitlines()[0]}): cut short or changed. The next run writes "
            "another."
        ) from error


def newest_first(store: Store, dataset: str = "*") -> Iterator[RunRecord]:
    """The records of a data set's runs, or of all data sets', by the start of the run; damaged ones are logged."""
    return readable(store, f"{dataset}/_runs/[0-9]*.json", RunRecord)


def readable(store: Store, pattern: str, model: type[R]) -> Iterator[R]:
    """The records whose paths in the store match, the last file name first; damaged ones are logged and left out."""
    for path in sorted(store.fs.glob(f"{store.root}/{pattern}"), key=_name, reverse=True):
        try:
            yield record(store, path, model)
        except UserError as error:
            logger.warning("left out: %s", error)


def _name(path: str) -> str:
    return path.rsplit("/", 1)[1]
