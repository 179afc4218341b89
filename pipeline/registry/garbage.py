"""Which published versions nobody needs any more, and their removal."""

import json
import logging

from pipeline.registry import versions
from pipeline.store import Store
from schemas.errors import UserError
from schemas.lineage import TableVersion
from schemas.registry import RegistryConfig

logger = logging.getLogger(__name__)


def unneeded(store: Store, dataset: str, keep: int, config: RegistryConfig | None = None) -> list[TableVersion]:
    """Versions that are neither the last `keep` of their table, nor its latest, nor part of a registered version that
    has an alias, is among the last `keep` registered, or is the one that `rollback` would return to; nor what one of
    these adds to: `quality` has two versions of one run, and with the first the next run finds its ingest again; the
    rows of new items and users are added to those of a training, with all of whose tables the next run compares.

    Raises:
        ValueError: `keep` is below 1.
        UserError: the registry knows none of the store's embeddings, so it cannot be this store's registry.
    """
    if keep < 1:
        raise ValueError(f"keep={keep} must be at least 1")
    registered = versions.registered(store, dataset, config)
    tables = store.tables(dataset)
    embeddings = versions.EMBEDDINGS
    trained = {version.version for version in store.versions(dataset, embeddings)} if embeddings in tables else set()
    if trained and trained.isdisjoint(entry.tables[embeddings] for entry in registered):
        raise UserError(
            f"{dataset} has {len(trained)} versions of {embeddings} in {store}, but the registry knows none of them: "
            "nothing tells which are in use. Is MLFLOW_TRACKING_URI the registry of this store?"
        )
    before = versions.previous(store, dataset, config) if registered else None
    kept = [entry for entry in registered if entry.alias or entry in registered[-keep:] or entry == before]
    trainings = {entry.tables.get("metrics"): entry for entry in reversed(registered)}  # the first version of each
    kept += [trainings[entry.tables.get("metrics")] for entry in kept]
    held = {(table, version) for entry in kept for table, version in entry.tables.items()}
    candidates: list[TableVersion] = []
    for table in tables:
        held.add((table, store.latest(dataset, table).version))
        published = store.versions(dataset, table)
        held |= {(table, version.version) for version in published[-keep:]}
        candidates.extend(published)
    held |= {(v.table, added_to) for v in candidates if (v.table, v.version) in held and (added_to := _added_to(v))}
    return [version for version in candidates if (version.table, version.version) not in held]


def _added_to(version: TableVersion) -> str | None:
    """The version of its own table that a version was made from."""
    inputs: dict[str, str] = json.loads(version.lineage.get("cm3.inputs", "{}"))
    return inputs.get(version.table)


def remove(store: Store, versions: list[TableVersion]) -> list[TableVersion]:
    """Delete versions, except what became the latest since it was found to be unneeded; returns what was deleted.

    Find them and call this in one `store.locked`, so that nothing is promoted in between, and while no run works on the
    data set (`flows.exclusive.alone`): a run reads what is not yet registered.
    """
    removed = [version for version in versions if store.remove(version)]
    for version in removed:
        logger.info("removed %s/%s@%s", version.dataset, version.table, version.version)
    return removed
