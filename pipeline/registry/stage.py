"""The registry stage: what was trained becomes a version in MLflow, which keeps runs, metrics, versions and aliases.

One registered model per data set. A model version points at `embeddings/items` and carries, as tags, the version of
every table that led to it, so `@champion` resolves any table to what the champion was made from.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from pipeline.registry import promotion
from pipeline.registry.client import Place, session
from pipeline.registry.promotion import value
from pipeline.registry.versions import (
    COVERAGE_TAG,
    EMBEDDINGS,
    PENDING_TAG,
    TABLE_TAG,
    best_champion,
    crown,
    find,
    versions_of,
)
from pipeline.store import Store
from schemas.lineage import TableVersion, canonical_json
from schemas.registry import Measured, Registered, RegistryConfig

logger = logging.getLogger(__name__)

BATCH = 900
"""MLflow takes at most 1,000 metrics in one request."""


BESIDE = ("recommendations", "semantic_ids/", "semantic_codebooks/")
"""Beginnings of the names of tables that a run may make anew for the same embeddings."""


def run(
    *,
    store: Store,
    tables: Mapping[str, TableVersion],
    parameters: Mapping[str, Any],
    config: RegistryConfig,
    report: str = "",
    model: str = "cm3",
) -> Registered:
    """Register what was trained, with its parameters, curves and metrics, and give it its alias.

    A version that a registered training's model made of newer data belongs to the run of that training.

    Args:
        tables: every table of the run by name; `embeddings/items`, `metrics` and `epochs` must be among them.
        parameters: logged as they are, one per key.
        report: address of the run's report within the store.
        model: the name under which `metrics` holds the trained model's rows.

    Returns:
        The registered version; marked `reused` if these embeddings were registered before. Then nothing is written,
        except where another list of what is never shown has made its recommendations anew, or semantic ids were asked
        for since.
    """
    embeddings = tables[EMBEDDINGS]
    dataset = embeddings.dataset
    with session(store, dataset, config, registers=True) as place:
        registered = versions_of(place)
        same = next((v for v in registered if v.tables[EMBEDDINGS] == embeddings.version), None)
        if same is not None:
            finished = same == registered[-1] and _finish(store, place, same)
            if _has_others(store, place, same, tables) or finished:
                same = find(versions_of(place), dataset, str(same.number))
            return same.model_copy(update={"reused": True})
        metrics = store.read(tables["metrics"])
        training = next((v for v in registered if v.tables.get("metrics") == tables["metrics"].version), None)
        measured = _measure(store, tables, metrics, model, training)
        if training is None:
            run_id = _log_run(place, store, tables, parameters, metrics, report, model)
        else:
            run_id = training.run_id
        tags = (
            {TABLE_TAG + name: version.version for name, version in tables.items()}
            | _tags(measured)
            | {"key": embeddings.key, "report": report}
        )
        # Nobody may promote another version between the judgement and the alias that follows from it.
        with store.locked(dataset):
            registered = versions_of(place)
            champion = next((v for v in registered if v.alias == "champion"), None)
            best = best_champion(place, registered, config.champions_compared)
            is_same = champion is not None and champion.tables.get("metrics") == tables["metrics"].version
            alias, reason = promotion.choose(measured, champion, config, best, same_training=is_same)
            _ensure_model(place)
            tags |= {"reason": reason, PENDING_TAG: alias}
            source = _source(store, embeddings)
            created = place.client.create_model_version(place.name, source=source, run_id=run_id, tags=tags)
            _give_alias(place, int(created.version), alias)
        level = logging.INFO if alias == "champion" else logging.WARNING
        logger.log(level, "registered %s version %s as %s: %s", dataset, created.version, alias, reason)
        return find(versions_of(place), dataset, str(created.version))


def _has_others(store: Store, place: Place, same: Registered, tables: Mapping[str, TableVersion]) -> bool:
    """Whether tables that decide no embedding were made anew for a registered version; it has them from now on."""
    others = {name: table.version for name, table in tables.items() if name.startswith(BESIDE)}
    changed = {name: version for name, version in others.items() if same.tables.get(name) != version}
    with store.locked(same.dataset):
        for name, version in changed.items():
            place.client.set_model_version_tag(place.name, str(same.number), TABLE_TAG + name, version)
    return bool(changed)


def _source(store: Store, embeddings: TableVersion) -> str:
    """The table's address. Within a local store: relative to it, so that the store may be moved or copied."""
    if not store.is_local:
        return embeddings.path
    return f"cm3://{embeddings.dataset}/{embeddings.table}/{embeddings.version}.parquet"


def _measure(
    store: Store, tables: Mapping[str, TableVersion], metrics: pa.Table, model: str, training: Registered | None
) -> Measured:
    """What the version is judged by.

    Args:
        training: the version that its training was registered as, if its model was only applied to newer data since:
            the figures were measured on the interactions of then.
    """
    if training is not None:
        validation_set = training.validation_set
    else:
        validation_set = promotion.validation_set(store, tables["interactions"]) if "interactions" in tables else ""
    return Measured(
        validation_ndcg=value(metrics, model, "valid", "ndcg", 20),
        validation_set=validation_set,
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


def _give_alias(place: Place, number: int, alias: str) -> None:
    """Give a new version its alias."""
    if alias == "champion":
        crown(place, number)
    else:
        place.client.set_registered_model_alias(place.name, alias, str(number))
    place.client.delete_model_version_tag(place.name, str(number), PENDING_TAG)


def _finish(store: Store, place: Place, version: Registered) -> bool:
    """Give a version the alias that a killed run judged it to get but did not set; False if it has its alias."""
    with store.locked(version.dataset):
        alias = place.client.get_model_version(place.name, str(version.number)).tags.get(PENDING_TAG)
        if alias:
            _give_alias(place, version.number, alias)
    return bool(alias)


def _log_run(
    place: Place,
    store: Store,
    tables: Mapping[str, TableVersion],
    parameters: Mapping[str, Any],
    metrics: pa.Table,
    report: str,
    model: str,
) -> str:
    client = place.client
    run = client.create_run(_ensure_experiment(place), tags={"report": report})
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
    client.set_terminated(run_id)
    return run_id


def _name(metric: str) -> str:
    """A name that MLflow accepts for a metric: letters, digits and `_-. /` only."""
    return re.sub(r"[^\w\-. /]", "_", metric)


def _ensure_experiment(place: Place) -> str:
    experiment = place.experiment()
    if experiment is not None:
        return experiment
    try:
        # No folder: its address would stay in a store that is moved. Nothing is kept there: the store has the report.
        return str(place.client.create_experiment(place.name, artifact_location=f"mlflow-artifacts:/{place.name}"))
    except MlflowException:  # another run made it in between
        experiment = place.experiment()
        if experiment is None:
            raise
        return experiment


def _ensure_model(place: Place) -> None:
    """Make the registered model if there is none, and note where its store lies now."""
    try:
        place.client.create_registered_model(place.name, tags=dict(place.tags))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        for name, text in place.tags.items():
            place.client.set_registered_model_tag(place.name, name, text)
