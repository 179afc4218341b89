"""MLflow's client for the registry that belongs to a store."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.store import Store, explained
from schemas.errors import StoreError, UserError
from schemas.registry import RegistryConfig

if TYPE_CHECKING:  # MLflow takes seconds to import: only the functions that ask it do
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel


def check(store: Store, config: RegistryConfig | None = None) -> None:
    """Refuse a store that has no registry, before any work.

    Raises:
        UserError: the store is remote, or in a folder that no address can name, and no tracking server is named.
    """
    if _named(config):
        return
    if not store.is_local:
        raise UserError(
            f"The store {store} is remote, so the registry needs a server: set MLFLOW_TRACKING_URI to an MLflow "
            "server (docker-compose.yml starts one), or to sqlite:///some/file.db."
        )
    if set(store.root) & set("?%"):
        raise UserError(
            f"The store {store}: MLflow cannot keep the registry in a folder with ? or % in its name. Choose another "
            "folder, or set MLFLOW_TRACKING_URI."
        )


def _named(config: RegistryConfig | None) -> str | None:
    return (config.tracking if config else None) or os.environ.get("MLFLOW_TRACKING_URI")


def connect(store: Store, config: RegistryConfig | None = None) -> "MlflowClient":
    """A client of the registry that belongs to this store.

    Raises:
        UserError: as `check`.
    """
    from mlflow import MlflowClient

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # MLflow's 7 retries are silent for four minutes; flows retry the whole stage.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    for talkative in ("alembic", "mlflow.store.db.utils"):  # they log every migration of a new database
        logging.getLogger(talkative).setLevel(logging.WARNING)
    check(store, config)
    uri = _named(config)
    if uri is None:
        database = Path(store.root) / "_mlflow" / "mlflow.db"
        with explained("the registry", store):
            database.parent.mkdir(parents=True, exist_ok=True)
        if not database.exists():
            make_database(database)
        uri = f"sqlite:///{database}"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def make_database(database: Path) -> None:
    """Make the database under another name first: MLflow cannot use one whose tables a killed run left half made."""
    from mlflow import MlflowClient

    draft = database.with_name(f".{os.getpid()}.db")
    try:
        draft.unlink(missing_ok=True)
        uri = f"sqlite:///{draft}"
        MlflowClient(tracking_uri=uri, registry_uri=uri).search_registered_models()
        database.hardlink_to(draft)
    except FileExistsError:
        pass  # another process was first
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def session(store: Store, config: RegistryConfig | None) -> Iterator["MlflowClient"]:
    """The registry's client; an error of its server or database becomes one line.

    Raises:
        StoreError: the registry cannot be reached or read.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield connect(store, config)
    except (MlflowException, SQLAlchemyError) as error:
        message = re.sub(r"//[^/@\s]*@", "//", str(error).splitlines()[0])[:300]  # an address may hold a password
        raise StoreError(
            f"The registry of {store} failed: {message}. Is MLFLOW_TRACKING_URI right and its server up (without one: "
            "is _mlflow/mlflow.db in the store whole, is the disk full)? Then run again: finished work is kept."
        ) from error


def model_of(client: "MlflowClient", dataset: str) -> "RegisteredModel | None":
    """The registered model that holds a data set's versions; None before the first one."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(dataset)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
