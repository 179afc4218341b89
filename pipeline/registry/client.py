"""MLflow's client for the registry that belongs to a store."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from pipeline.store import Store, explained
from schemas.errors import StoreError, UserError
from schemas.registry import RegistryConfig


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


def connect(store: Store, config: RegistryConfig | None = None) -> MlflowClient:
    """A client of the registry that belongs to this store.

    Raises:
        UserError: as `check`.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # 7 say nothing for four minutes; flows try again
    for talkative in ("alembic", "mlflow.store.db.utils"):  # they log every migration of a new database
        logging.getLogger(talkative).setLevel(logging.WARNING)
    check(store, config)
    uri = _named(config)
    if uri is None:
        database = Path(store.root) / "_mlflow" / "mlflow.db"
        with explained("the registry", store):
            database.parent.mkdir(parents=True, exist_ok=True)
        if not database.exists():
            _create(database)
        uri = f"sqlite:///{database}"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _create(database: Path) -> None:
    """The database under another name first: MLflow cannot go on with one whose tables a killed run half made."""
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
def asked(store: Store, config: RegistryConfig | None) -> Iterator[MlflowClient]:
    """The registry's client; what its server or database fails at becomes one line.

    Raises:
        StoreError: it cannot be reached or read.
    """
    try:
        yield connect(store, config)
    except (MlflowException, SQLAlchemyError) as error:
        said = re.sub(r"//[^/@\s]*@", "//", str(error).splitlines()[0])[:300]  # an address may hold a password
        raise StoreError(
            f"The registry of {store} failed: {said}. Is MLFLOW_TRACKING_URI right and its server there (without one: "
            "is _mlflow/mlflow.db in the store whole, is the disk full)? Then run again: finished work is kept."
        ) from error
