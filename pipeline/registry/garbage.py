"""Which published versions nobody needs any more, and their removal."""

import logging
import shutil
import time

from pipeline.registry import versions
from pipeline.store import Store
from schemas.errors import UserError
from schemas.lineage import TableVersion
from schemas.registry import RegistryConfig

logger = logging.getLogger(__name__)

STAGING_SECONDS = 24 * 3600
"""A staging folder that has not changed for this long belongs to a run that was killed."""


def unneeded(store: Store, dataset: str, keep: int, config: RegistryConfig | None = None) -> list[TableVersion]:
    """Versions that are neither the last `keep` of their table, nor its latest, nor part of a registered version that
    has an alias, is among the last `keep` registered, or is the one that `rollback` would return to.

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
    held = {
        (table, version)
        for entry in registered
        if entry.alias or entry in registered[-keep:] or entry == before
        for table, version in entry.tables.items()
    }
    candidates: list[TableVersion] = []
    for table in tables:
        held.add((table, store.latest(dataset, table).version))
        candidates.extend(store.versions(dataset, table)[:-keep])
    return [version for version in candidates if (version.table, version.version) not in held]


def remove(store: Store, versions: list[TableVersion]) -> list[TableVersion]:
    """Delete versions: the manifest first, so that what is left of an interrupted removal is no version.

    Call it while no run works on the data set (`flows.exclusive.alone`). A version that a run on another machine has
    made the latest since it was found to be unneeded stays.

    Returns: what was deleted.
    """
    unneeded = [v for v in versions if store.latest(v.dataset, v.table).version != v.version]
    for version in unneeded:
        folder = version.path
        store.fs.rm_file(store.inside(folder).removesuffix(".parquet") + ".json")
        store.fs.rm(store.inside(folder), recursive=True)
        logger.info("removed %s/%s@%s", version.dataset, version.table, version.version)
    return unneeded


def remove_abandoned_staging(store: Store) -> int:
    """Delete what killed runs left half-written on this machine; returns how many folders."""
    old = [path for path in store.scratch("staging").iterdir() if time.time() - path.stat().st_mtime > STAGING_SECONDS]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return len(old)
