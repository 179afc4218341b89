"""The registry of embedding versions: MLflow keeps runs, metrics, versions and aliases; this module only speaks to it.

One registered model a data set. A model version points at `embeddings/items` and carries, as tags, the version of every
table that led to it, so `@champion` resolves any table to what the champion was made from.
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from pipeline.registry import promotion
from pipeline.store import Store, explained, parse_reference
from schemas.errors import StoreError, UserError
from schemas.lineage import TableVersion, canonical_json
from schemas.registry import Measured, Registered, RegistryConfig

logger = logging.getLogger(__name__)

EMBEDDINGS = "embeddings/items"
BATCH = 900
"""MLflow takes at most 1,000 metrics in one request."""
_TABLE_TAG = "table."
_COVERAGE_TAG = "coverage."
_HISTORY_TAG = "champions"
_PENDING_TAG = "alias"
"""Of a version that has not yet the alias it was judged to get."""


def run(
    *,
    store: Store,
    tables: Mapping[str, TableVersion],
    parameters: Mapping[str, Any],
    config: RegistryConfig,
    artifacts: Mapping[str, str] | None = None,
    model: str = "cm3",
) -> Registered:
    """Register what was trained, with its parameters, curves and metrics, and give it its alias.

    Args:
        tables: every table of the run by name; `embeddings/items`, `metrics` and `epochs` must be among them.
        parameters: logged as they are, one a key.
        artifacts: name → path within the store's file system, of files to keep with the run, such as the report.
        model: the name under which `metrics` holds the trained model's rows.

    Returns:
        The registered version; marked `reused`, and nothing written, where this one was registered before.
    """
    with _asked(store, config) as client:
        embeddings = tables[EMBEDDINGS]
        registered = _versions(client, embeddings.dataset)
        again = next((v for v in registered if v.tables[EMBEDDINGS] == embeddings.version), None)
        if again is not None:
            if again == registered[-1] and _finish(client, again):
                again = find(_versions(client, embeddings.dataset), embeddings.dataset, str(again.number))
            return again.model_copy(update={"reused": True})
        metrics = store.read(tables["metrics"])
        measured = _measure(store, tables, metrics, model)
        run_id = _log_run(client, store, tables, parameters, metrics, artifacts or {}, model)
        champion = next((v for v in _versions(client, embeddings.dataset) if v.alias == "champion"), None)
        alias, reason = promotion.choose(measured, champion, config)
        _ensure_model(client, embeddings.dataset)
        created = client.create_model_version(
            embeddings.dataset,
            source=embeddings.path,
            run_id=run_id,
            tags={_TABLE_TAG + name: version.version for name, version in tables.items()}
            | _tags(measured)
            | {"reason": reason, "key": embeddings.key, _PENDING_TAG: alias},
        )
        _give_alias(client, embeddings.dataset, int(created.version), alias)
        level = logging.INFO if alias == "champion" else logging.WARNING
        logger.log(level, "registered %s version %s as %s: %s", embeddings.dataset, created.version, alias, reason)
        return find(_versions(client, embeddings.dataset), embeddings.dataset, str(created.version))


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
def _asked(store: Store, config: RegistryConfig | None) -> Iterator[MlflowClient]:
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


def versions(store: Store, dataset: str, config: RegistryConfig | None = None) -> list[Registered]:
    """Every registered version of a data set, oldest first, each with the alias it holds now ("" for none)."""
    with _asked(store, config) as client:
        return _versions(client, dataset)


def promote(store: Store, dataset: str, at: str, config: RegistryConfig | None = None) -> Registered:
    """Make the version with that number or alias the champion, after comparing its files with their checksums.

    Raises:
        UserError: there is no such version, or one of its files was changed or lost.
    """
    with _asked(store, config) as client:
        chosen = find(_versions(client, dataset), dataset, at)
        for table in (EMBEDDINGS, "embeddings/users"):
            if table in chosen.tables:
                store.verify(store.get(dataset, table, chosen.tables[table]))
        _crown(client, dataset, chosen.number)
        return find(_versions(client, dataset), dataset, str(chosen.number))


def rollback(store: Store, dataset: str, config: RegistryConfig | None = None) -> Registered:
    """Give the alias `champion` back to the version that held it before.

    Raises:
        UserError: no other version was champion before.
    """
    with _asked(store, config) as client:
        history = _champions(client, dataset)
        if len(history) < 2:
            raise UserError(
                f"{dataset} has had no champion before the present one; `cm3 versions {dataset}` lists them all."
            )
        previous = promote(store, dataset, str(history[-2]), config)
        client.set_registered_model_tag(dataset, _HISTORY_TAG, canonical_json(history[:-1]))
        return previous


def resolve(store: Store, reference: str, config: RegistryConfig | None = None) -> TableVersion:
    """Find the version that `DATASET/TABLE[@VERSION|@ALIAS|@NUMBER]` names.

    Without `@` the last published version. VERSION is (the beginning of) a table version's name; ALIAS and NUMBER are
    the registry's and name the table as it was for that registered version.

    Raises:
        UserError: nothing goes by that name; the message lists what does.
    """
    dataset, table, at = parse_reference(reference)
    if at in ("", "latest"):
        return store.latest(dataset, table)
    if re.fullmatch(r"[0-9a-f]{6,16}", at):
        return store.get(dataset, table, at)
    registered = find(versions(store, dataset, config), dataset, at)
    if table not in registered.tables:
        raise UserError(f"{dataset}@{at} was made without {table!r}; it has: {', '.join(sorted(registered.tables))}.")
    return store.get(dataset, table, registered.tables[table])


def find(known: list[Registered], dataset: str, at: str) -> Registered:
    """The registered version with that alias or number."""
    for version in known:
        if at == version.alias or at == str(version.number):
            return version
    names = ", ".join(f"{v.number}{f' ({v.alias})' if v.alias else ''}" for v in known) or "none"
    raise UserError(f"{dataset} has no registered version {at!r}; registered: {names}.")


def value(metrics: pa.Table, model: str, split: str, metric: str, k: int) -> float:
    """Mean over seeds of one figure of the `metrics` table."""
    wanted = metrics.filter(
        (pc.field("model") == model)
        & (pc.field("split") == split)
        & (pc.field("metric") == metric)
        & (pc.field("k") == k)
    )
    if len(wanted) == 0:
        raise ValueError(f"no {metric}@{k} of {model!r} on {split!r} in the metrics table")
    return float(pc.mean(wanted["value"]).as_py())


def _measure(store: Store, tables: Mapping[str, TableVersion], metrics: pa.Table, model: str) -> Measured:
    return Measured(
        validation_ndcg=value(metrics, model, "valid", "ndcg", 20),
        validation_set=promotion.validation_set(store, tables["interactions"]) if "interactions" in tables else "",
        items=tables[EMBEDDINGS].rows,
        coverage=promotion.coverage(store, tables),
    )


def _tags(measured: Measured) -> dict[str, str]:
    shares = {_COVERAGE_TAG + name: repr(share) for name, share in measured.coverage.items()}
    return shares | {
        "validation_ndcg_20": repr(measured.validation_ndcg),
        "validation_set": measured.validation_set,
        "items": str(measured.items),
    }


def _tagged(tags: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in tags.items() if name.startswith(prefix)}


def _give_alias(client: MlflowClient, dataset: str, number: int, alias: str) -> None:
    """Give a new version its alias."""
    if alias == "champion":
        _crown(client, dataset, number)
    else:
        client.set_registered_model_alias(dataset, alias, str(number))
    client.delete_model_version_tag(dataset, str(number), _PENDING_TAG)


def _finish(client: MlflowClient, version: Registered) -> bool:
    """Give a version its alias whose run was killed before it had one; whether there was one to give."""
    alias = client.get_model_version(version.dataset, str(version.number)).tags.get(_PENDING_TAG)
    if alias:
        _give_alias(client, version.dataset, version.number, alias)
    return bool(alias)


def _crown(client: MlflowClient, dataset: str, number: int) -> None:
    """Remember it for `rollback`, and set the alias."""
    history = _champions(client, dataset)
    if history[-1:] != [number]:  # else `rollback` would give it back to itself
        client.set_registered_model_tag(dataset, _HISTORY_TAG, canonical_json([*history, number]))
    if client.get_registered_model(dataset).aliases.get("challenger") == str(number):
        client.delete_registered_model_alias(dataset, "challenger")
    client.set_registered_model_alias(dataset, "champion", str(number))


def _champions(client: MlflowClient, dataset: str) -> list[int]:
    """Numbers of the versions that were champion, in order, the present one last."""
    try:
        tags = client.get_registered_model(dataset).tags
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise UserError(f"{dataset} has no registered version yet.") from error
    return [int(number) for number in json.loads(tags.get(_HISTORY_TAG, "[]"))]


def _log_run(
    client: MlflowClient,
    store: Store,
    tables: Mapping[str, TableVersion],
    parameters: Mapping[str, Any],
    metrics: pa.Table,
    artifacts: Mapping[str, str],
    model: str,
) -> str:
    experiment = _ensure_experiment(client, store, tables[EMBEDDINGS].dataset)
    run = client.create_run(experiment)
    run_id: str = run.info.run_id
    params = [Param(name, v if isinstance(v, str) else canonical_json(v)) for name, v in parameters.items()]
    client.log_batch(run_id, params=params)
    curve = store.read(tables["epochs"]).filter(pc.field("model") == model).to_pylist()
    created = run.info.start_time
    logged = [Metric(_name(row["metric"]), row["value"], created, row["epoch"]) for row in curve]
    logged += [
        Metric(_name(f"{row['model']}_{row['split']}_{row['metric']}" + (f"_{row['k']}" if row["k"] else "")),
               row["value"], created, 0)
        for row in metrics.to_pylist()
    ]  # fmt: skip
    for start in range(0, len(logged), BATCH):
        client.log_batch(run_id, metrics=logged[start : start + BATCH])
    with TemporaryDirectory() as folder:
        for name, path in artifacts.items():
            store.fs.get_file(path, f"{folder}/{name}")
            client.log_artifact(run_id, f"{folder}/{name}")
    client.set_terminated(run_id)
    return run_id


def _name(metric: str) -> str:
    """MLflow's metric names take letters, digits and `_-. /` only."""
    return re.sub(r"[^\w\-. /]", "_", metric)


def _ensure_experiment(client: MlflowClient, store: Store, dataset: str) -> str:
    experiment = client.get_experiment_by_name(dataset)
    if experiment is not None:
        return str(experiment.experiment_id)
    location = f"{store.uri}/_mlflow/artifacts/{dataset}"
    try:
        return str(client.create_experiment(dataset, artifact_location=location))
    except MlflowException:  # another run made it in between
        experiment = client.get_experiment_by_name(dataset)
        if experiment is None:
            raise
        return str(experiment.experiment_id)


def _ensure_model(client: MlflowClient, dataset: str) -> None:
    try:
        client.create_registered_model(dataset)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _versions(client: MlflowClient, dataset: str) -> list[Registered]:
    try:
        aliases = client.get_registered_model(dataset).aliases
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return []
    by_number = {str(number): alias for alias, number in aliases.items()}
    found = client.search_model_versions(f"name = '{dataset}'")
    return sorted(
        (
            Registered(
                dataset=dataset,
                number=int(version.version),
                alias=by_number.get(str(version.version), ""),
                reason=version.tags.get("reason", ""),
                run_id=version.run_id or "",
                tables=_tagged(version.tags, _TABLE_TAG),
                validation_ndcg=float(version.tags["validation_ndcg_20"]),
                validation_set=version.tags.get("validation_set", ""),
                items=int(version.tags["items"]),
                coverage={name: float(share) for name, share in _tagged(version.tags, _COVERAGE_TAG).items()},
            )
            for version in found
        ),
        key=lambda v: v.number,
    )
