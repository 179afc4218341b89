"""The removal of what holds forgotten users or was made from it.

A version is never rewritten: what follows from the remaining users is published as new versions, and the old ones go.
"""

import json
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import forgotten
from pipeline.published import Published
from pipeline.registry import versions
from pipeline.registry.client import has_registry, session
from pipeline.registry.holding import BATCH_ROWS, INTERACTIONS, QUALITY, USER, is_whole, published, reference
from pipeline.report import encoders, index
from pipeline.store import Store, explained
from schemas.errors import UserError
from schemas.forgetting import Forgotten
from schemas.lineage import Lineage, TableVersion, canonical_json
from schemas.registry import Registered, RegistryConfig

logger = logging.getLogger(__name__)

STAGE, STAGE_VERSION = "forget", 1
RECORDS = ("_runs", "_refused")
"""Folders of records of runs, whose verdicts have examples."""
PART = re.compile(r"(?P<version>[^_].*/[0-9a-f]{16})\.(parquet|files)/[^/]+")
"""Within a data set's folder: a file of a version."""
OF_DATASET = ("ingest", "training", "embed", "comparison", "trainings", "tuning")
"""Scratch folders with one folder per data set, for work that was not finished."""
OF_SOURCES = ("raw", "demo")
"""Scratch folders with what was downloaded or drawn, for any data set."""


def check_registry(store: Store, dataset: str, record: Forgotten, config: RegistryConfig | None) -> None:
    """Refuse a registry that cannot be this data set's: its champion would be removed and not replaced.

    Raises:
        UserError: it knows none of the store's embeddings, and not because an earlier call took them out of it.
    """
    trained = {v.version for v in published(store, dataset) if v.table == versions.EMBEDDINGS}
    if not trained or not store.has_latest(dataset, versions.EMBEDDINGS):  # a run that was stopped early, if any
        return
    if has_registry(store, config):
        with session(store, dataset, config) as place:
            if record.unfinished and place.model() is not None:
                return
            if not trained.isdisjoint(entry.tables[versions.EMBEDDINGS] for entry in versions.versions_of(place)):
                return
    raise UserError(
        f"{dataset} has {len(trained)} versions of {versions.EMBEDDINGS} in {store}, but the registry knows none of "
        "them: nothing tells which is the champion, and nothing was removed. Set MLFLOW_TRACKING_URI, or give "
        "--registry.tracking, as for the run that made them; if that run was stopped before it registered them, run "
        "it again first."
    )


def affected(
    store: Store, dataset: str, gone: Sequence[TableVersion], config: RegistryConfig | None
) -> list[Registered]:
    """The registered versions that have one of these tables."""
    if not has_registry(store, config):
        return []
    names = {(version.table, version.version) for version in gone}
    return [entry for entry in versions.registered(store, dataset, config) if names & set(entry.tables.items())]


def remaining(
    *, store: Store, tables: dict[str, TableVersion], gone: Sequence[TableVersion], record: Forgotten
) -> Published:
    """A registered version's interactions and `quality`, if they go, without the forgotten users.

    The counts are rows left out.
    """
    names = {reference(version) for version in gone}
    made: dict[str, TableVersion] = {}
    counts: dict[str, float] = {}
    for name in (INTERACTIONS, QUALITY):
        version = tables.get(name)
        if version is not None and reference(version) in names:
            made[name] = _without(store, version, record)
            counts[f"{name}_left_out"] = version.rows - made[name].rows
    return Published(made, counts)


def _without(store: Store, version: TableVersion, record: Forgotten) -> TableVersion:
    """The same table without the rows, or the examples, of forgotten users."""
    lineage = Lineage(
        dataset=version.dataset,
        table=version.table,
        stage=STAGE,
        stage_version=STAGE_VERSION,
        # Not among the inputs: whatever is made from a version that goes would go with it.
        config=json.loads(version.lineage["cm3.config"]) | {"of": version.version},
        inputs=record.identity(),
    )
    if (earlier := store.find(lineage)) is not None:
        return earlier
    schema = next(iter(store.batches(version, rows=1))).schema
    with store.writer(schema, lineage) as writer:
        for batch in store.batches(version, rows=BATCH_ROWS):
            if version.table == QUALITY:
                writer.write(forgotten.cleaned(batch, record))
            else:
                gone = pc.is_in(batch[USER], forgotten.among(record, batch[USER]))
                writer.write(batch.filter(pc.invert(gone)))
    return writer.version


def remove(
    store: Store, dataset: str, record: Forgotten, gone: Sequence[TableVersion], config: RegistryConfig | None
) -> None:
    """Take out of the registry, then of the store, what holds forgotten users; `record` is that of the data set.

    In this order, so that whoever calls it again after a kill ends in the same state.
    """
    _deregister(store, dataset, gone, config)
    for path in reports(store, dataset, record, gone, config):
        store.fs.rm_file(path)
    for path, document in records(store, dataset, record).items():
        store.put(path[len(store.root) + 1 :], document)
    if store.fs.exists(f"{store.root}/{dataset}/{index.REPORTS}/{index.HISTORY}"):
        index.put_history(store, dataset)  # it shows what the records say
    for folder in OF_DATASET:
        shutil.rmtree(store.scratch(folder) / dataset, ignore_errors=True)
    (store.scratch("report") / f"{dataset}.html").unlink(missing_ok=True)
    store.remove_abandoned_staging()
    logger.info("%s: removing %d versions", dataset, len(gone))
    for version in gone:
        if store.latest_name(dataset, version.table) == version.version:
            _point_elsewhere(store, version, gone)
        with store.locked(dataset):
            store.remove(version)
        logger.info("removed %s", reference(version))
    with store.locked(dataset), explained("what killed runs left", store):
        for path in _left_over(store, dataset):
            store.fs.rm_file(path)


def _left_over(store: Store, dataset: str) -> list[str]:
    """Files of versions without a manifest, and drafts: what killed runs and removals left."""
    base = store.folder(dataset)
    names = {path[len(base) + 1 :] for path in store.fs.find(base)}
    parts = {name: match["version"] for name in names if (match := PART.fullmatch(name))}
    drafts = {name for name in names if name.rsplit("/", 1)[-1].startswith(".")}
    lost = {name for name, version in parts.items() if f"{version}.json" not in names}
    return [f"{base}/{name}" for name in sorted(drafts | lost)]


def _deregister(store: Store, dataset: str, gone: Sequence[TableVersion], config: RegistryConfig | None) -> None:
    entries = affected(store, dataset, gone, config)
    if not entries:
        return
    with session(store, dataset, config) as place, store.locked(dataset):
        for entry in entries:
            place.client.delete_model_version(place.name, str(entry.number))
            logger.info("removed version %d of %s from the registry", entry.number, dataset)


def _point_elsewhere(store: Store, version: TableVersion, gone: Sequence[TableVersion]) -> None:
    """Let the newest version that stays be the latest; none, where none stays."""
    names = {reference(other) for other in gone}
    kept = [v for v in store.versions(version.dataset, version.table) if reference(v) not in names]
    if kept:
        store.set_latest(kept[-1])
    else:
        store.forget_latest(version.dataset, version.table)


def reports(
    store: Store, dataset: str, record: Forgotten, gone: Sequence[TableVersion], config: RegistryConfig | None
) -> list[str]:
    """Paths of the reports that may show the users: all, except those of registered versions that stay, and of runs all
    of whose tables stay; these too, if they show a comparison of encoders that goes."""
    staying = _of_tables_that_stay(store, dataset, record, gone)
    if has_registry(store, config):
        leaving = {entry.number for entry in affected(store, dataset, gone, config)}
        registered = versions.registered(store, dataset, config)
        staying |= {_name(entry.report) for entry in registered if entry.number not in leaving}
    compared = [version.version.encode() for version in gone if version.table == encoders.TABLE]

    def shows(path: str) -> bool:
        return bool(compared) and any(version in store.fs.cat_file(path) for version in compared)

    paths: list[str] = store.fs.glob(f"{store.root}/{dataset}/{index.REPORTS}/*.html")
    return [path for path in paths if _name(path) != index.HISTORY and (_name(path) not in staying or shows(path))]


def _of_tables_that_stay(store: Store, dataset: str, record: Forgotten, gone: Sequence[TableVersion]) -> set[str]:
    """File names of reports, such as those of extractions."""
    names, changed = {reference(version) for version in gone}, records(store, dataset, record)
    staying = set()
    for path in store.fs.glob(f"{store.root}/{dataset}/_runs/*.json"):
        if path in changed:
            continue
        document = json.loads(store.fs.cat_file(path))
        tables = [(stage["table"], stage["version"]) for stage in document.get("stages", ())]
        if "report" in document and all(
            f"{dataset}/{table}@{version}" not in names and store.has(dataset, table, version)
            for table, version in tables
        ):
            staying.add(_name(document["report"]))
    return staying


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def records(store: Store, dataset: str, record: Forgotten) -> dict[str, bytes]:
    """Path of each record of a run that names forgotten users → what it says without them."""
    changed: dict[str, bytes] = {}
    for folder in RECORDS:
        for path in store.fs.glob(f"{store.root}/{dataset}/{folder}/*.json"):
            try:
                document = json.loads(store.fs.cat_file(path))
            except ValueError:  # cut short: nobody reads it, so nobody misses it
                changed[path] = b"{}"
                continue
            rest = forgotten.without_examples(document, record)
            if canonical_json(rest) != canonical_json(document):
                changed[path] = json.dumps(rest, indent=2).encode()
    return changed


def downloads(store: Store) -> list[Path]:
    """Folders on this machine that hold files of sources, of any data set; the next run fetches or draws them again."""
    return [folder for name in OF_SOURCES if any((folder := store.scratch(name)).iterdir())]


def elsewhere(store: Store, dataset: str, users: Sequence[str]) -> tuple[str, ...]:
    """Other data sets of the store whose latest interactions have some of these users, such as samples."""
    names = []
    for other in store.datasets():
        if other == dataset or not store.has_latest(other, INTERACTIONS):
            continue
        version, wanted = store.latest(other, INTERACTIONS), pa.array(users, pa.string())
        try:
            batches = store.batches(version, [USER], BATCH_ROWS)
            if any(pc.any(pc.is_in(batch[USER], wanted)).as_py() for batch in batches):
                names.append(other)
        except (OSError, ValueError, UserError):
            if is_whole(store, version):
                raise
            logger.warning("%s is damaged: nothing tells whether it holds them", reference(version))
    return tuple(names)
