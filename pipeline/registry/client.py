"""MLflow's client for the registry that belongs to a store, and a data set's place in it."""

import logging
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.postgresql import with_driver
from pipeline.store import Store, digest, explained
from schemas.errors import StoreError, UserError
from schemas.registry import RegistryConfig

if TYPE_CHECKING:  # MLflow takes seconds to import: only the functions that ask it do
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

STORE_TAG = "store"
"""On a registered model: the identity of the store whose versions it holds."""
ADDRESS_TAG = "store.address"
"""On a registered model of a server that several stores may share: where its store lay at the last registration."""


@dataclass(frozen=True)
class Place:
    """Where the registry keeps one data set of one store.

    Attributes:
        name: of the registered model and of the experiment: the data set's, followed by the store's identity if another
            store registered a data set of that name on the same server first.
        tags: what the registered model says of the store.
    """

    client: "MlflowClient"
    dataset: str
    name: str
    tags: Mapping[str, str]

    def model(self) -> "RegisteredModel | None":
        """The registered model that holds the data set's versions; None before the first one."""
        return _model(self.client, self.name)

    def experiment(self) -> str | None:
        """The id of the experiment that holds the data set's runs; None before the first one.

        Raises:
            UserError: somebody deleted it.
        """
        experiment = self.client.get_experiment_by_name(self.name)
        if experiment is None:
            return None
        if experiment.lifecycle_stage != "active":
            raise UserError(
                f"MLflow's experiment {self.name!r}, which holds the runs of {self.dataset}, was deleted. Restore it: "
                f"MLFLOW_TRACKING_URI={_without_password(self.client.tracking_uri)} mlflow experiments restore "
                f"--experiment-id {experiment.experiment_id}"
            )
        return str(experiment.experiment_id)


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
        database = _database(store)
        with explained("the registry", store):
            database.parent.mkdir(parents=True, exist_ok=True)
        if not database.exists():
            make_database(database)
        uri = f"sqlite:///{database}"
    address = with_driver(uri)
    return MlflowClient(tracking_uri=address, registry_uri=address)


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
def session(store: Store, dataset: str, config: RegistryConfig | None, *, registers: bool = False) -> Iterator[Place]:
    """A data set's place in the registry; an error of its server or database becomes one line.

    Args:
        registers: give the store an identity if it has none yet.

    Raises:
        StoreError: the registry cannot be reached or read.
        UserError: `dataset` is no name of one, or the store is a copy of one that uses the same server.
    """
    store.folder(dataset)
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        client = connect(store, config)
        own, is_shared = identity(store, create=registers), _named(config) is not None
        name = _name(client, store, dataset, own) if is_shared else dataset
        # A registry inside the store holds no address, so that the store may be moved or copied.
        yield Place(client, dataset, name, {STORE_TAG: own} | ({ADDRESS_TAG: store.uri} if is_shared else {}))
    except (MlflowException, SQLAlchemyError, ModuleNotFoundError) as error:  # the last: a database without its driver
        message = _without_password(str(error).splitlines()[0])[:300]
        raise StoreError(
            f"The registry of {store} failed: {message}. Is MLFLOW_TRACKING_URI right, its server up, and its "
            "database's driver installed (extra postgresql)? Without one: is _mlflow/mlflow.db in the store whole, is "
            "the disk full? Then run again: finished work is kept."
        ) from error


def ready(store: Store, dataset: str, config: RegistryConfig | None = None) -> None:
    """Refuse, before any work, a registry in which the work could not be registered at its end.

    Raises:
        StoreError: the registry cannot be reached or read.
        UserError: as `check`; the data set's experiment was deleted; the store is a copy that must not register there.
    """
    check(store, config)
    if _named(config) is None and not _database(store).exists():
        return
    with session(store, dataset, config) as place:
        place.experiment()


def has_registry(store: Store, config: RegistryConfig | None = None) -> bool:
    """Whether there is a registry to ask. Asking a local store for one would make an empty one."""
    return _named(config) is not None or (store.is_local and _database(store).exists())


def identity(store: Store, *, create: bool = False) -> str:
    """What tells this store from others on one server, 16 hex digits; empty for a local store without any yet.

    A local one keeps it in `_mlflow/store`, and so keeps it when it is moved. A remote one's follows from its address.
    """
    if not store.is_local:
        return digest(store.uri)
    file = Path(store.root) / "_mlflow" / "store"
    if create and not file.exists():
        with explained("the registry", store):
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_name(f".{uuid.uuid4().hex}")
            draft.write_text(draft.name[1:17])
            try:
                file.hardlink_to(draft)
            except FileExistsError:
                pass  # another run was first
            finally:
                draft.unlink()
    return file.read_text().strip() if file.exists() else ""


def _name(client: "MlflowClient", store: Store, dataset: str, own: str) -> str:
    """The name under which a server that other stores may share keeps this store's data set."""
    second = f"{dataset}-{own[:8]}"
    models = {}
    for name in (dataset, second):
        model = models[name] = _model(client, name)
        if model is not None and model.tags.get(STORE_TAG) == own:
            _refuse_copy(store, model.tags.get(ADDRESS_TAG, ""), own)
            return name
    return dataset if models[dataset] is None else second


def _refuse_copy(store: Store, address: str, own: str) -> None:
    """Refuse a store whose identity another one, where this one lay at the last registration, still has."""
    if address and store.is_local and address != store.uri and identity(Store(address)) == own:
        raise UserError(
            f"{store} is a copy of {address}, which keeps its versions on the same MLflow server. Remove "
            f"{store}/_mlflow/store to register the copy's versions apart, or unset MLFLOW_TRACKING_URI."
        )


def _model(client: "MlflowClient", name: str) -> "RegisteredModel | None":
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _database(store: Store) -> Path:
    return Path(store.root) / "_mlflow" / "mlflow.db"


def _without_password(address: str) -> str:
    """The text without the user and password that an address in it may hold."""
    return re.sub(r"//[^/@\s]*@", "//", address)
