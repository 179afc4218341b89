"""The registry stage: what was trained becomes a version in MLflow, which keeps runs, metrics, versions and aliases.

One registered model per data set. A model version points at `embeddings/items` and carries, as tags, the version of
every table that led to it, so `@champion` resolves any table to what the champion was made from.
"""

import logging
import re
from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from pipeline.registry import promotion
from pipeline.registry.client import session
from pipeline.registry.promotion import value
from pipeline.registry.versions import COVERAGE_TAG, EMBEDDINGS, PENDING_TAG, TABLE_TAG, crown, find, versions_of
from pipeline.store import Store
from schemas.lineage import TableVersion, canonical_json
from schemas.registry import Measured, Registered, RegistryConfig

logger = logging.getLogger(__name__)

BATCH = 900
"""MLflow takes at most 1,000 metrics in one request."""


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
        parameters: logged as they are, one per key.
        artifacts: name → path within the store's file system: files to keep with the run, such as the report.
        model: the name under which `metrics` holds the trained model's rows.

    Returns:
        The registered version; marked `reused`, with nothing written, if these embeddings were registered before.
    """
    with session(store, config) as client:
        embeddings = tables[EMBEDDINGS]
        registered = versions_of(client, embeddings.dataset)
        same = next((v for v in registered if v.tables[EMBEDDINGS] == embeddings.version), None)
        if same is not None:
            if same == registered[-1] and _finish(client, same):
                same = find(versions_of(client, embeddings.dataset), embeddings.dataset, str(same.number))
            return same.model_copy(update={"reused": True})
        metrics = store.read(tables["metrics"])
        measured = _measure(store, tables, metrics, model)
        run_id = _log_run(client, store, tables, parameters, metrics, artifacts or {}, model)
        champion = next((v for v in versions_of(client, embeddings.dataset) if v.alias == "champion"), None)
        alias, reason = promotion.choose(measured, champion, config)
        _ensure_model(client, embeddings.dataset)
        created = client.create_model_version(
            embeddings.dataset,
            source=embeddings.path,
            run_id=run_id,
            tags={TABLE_TAG + name: version.version for name, version in tables.items()}
            | _tags(measured)
            | {"reason": reason, "key": embeddings.key, PENDING_TAG: alias},
        )
        _give_alias(client, embeddings.dataset, int(created.version), alias)
        level = logging.INFO if alias == "champion" else logging.WARNING
        logger.log(level, "registered %s version %s as %s: %s", embeddings.dataset, created.version, alias, reason)
        return find(versions_of(client, embeddings.dataset), embeddings.dataset, str(created.version))


def _measure(store: Store, tables: Mapping[str, TableVersion], metrics: pa.Table, model: str) -> Measured:
    return Measured(
        validation_ndcg=value(metrics, model, "valid", "ndcg", 20),
        validation_set=promotion.validation_set(store, tables["interactions"]) if "interactions" in tables else "",
        items=tables[EMBEDDINGS].rows,
        coverage=promotion.coverage(store, tables),
    )


def _tags(measured: Measured) -> dict[str, str]:
    shares = {COVERAGE_TAG + name: repr(share) for name, share in measured.coverage.items()}
    return shares | {
        "validation_ndcg_20": repr(measured.validation_ndcg),
        "validation_set": measured.validation_set,
        "items": str(measured.items),
    }


def _give_alias(client: MlflowClient, dataset: str, number: int, alias: str) -> None:
    """Give a new version its alias."""
    if alias == "champion":
        crown(client, dataset, number)
    else:
        client.set_registered_model_alias(dataset, alias, str(number))
    client.delete_model_version_tag(dataset, str(number), PENDING_TAG)


def _finish(client: MlflowClient, version: Registered) -> bool:
    """Give a version the alias that a killed run judged it to get but did not set; False if it has its alias."""
    alias = client.get_model_version(version.dataset, str(version.number)).tags.get(PENDING_TAG)
    if alias:
        _give_alias(client, version.dataset, version.number, alias)
    return bool(alias)


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
    figures = [Metric(_name(row["metric"]), row["value"], created, row["epoch"]) for row in curve]
    for row in metrics.to_pylist():
        parts = [row["model"], row["split"], row["metric"], *([str(row["k"])] if row["k"] else [])]
        figures.append(Metric(_name("_".join(parts)), row["value"], created, 0))
    for start in range(0, len(figures), BATCH):
        client.log_batch(run_id, metrics=figures[start : start + BATCH])
    with TemporaryDirectory() as folder:
        for name, path in artifacts.items():
            store.fs.get_file(path, f"{folder}/{name}")
            client.log_artifact(run_id, f"{folder}/{name}")
    client.set_terminated(run_id)
    return run_id


def _name(metric: str) -> str:
    """A name that MLflow accepts for a metric: letters, digits and `_-. /` only."""
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
