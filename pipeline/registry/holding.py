"""Which versions of a data set hold forgotten users, or were made from what did."""

import json
import logging
import re
from collections.abc import Collection

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import forgotten
from pipeline.store import Store
from schemas.errors import UserError
from schemas.forgetting import Forgotten
from schemas.lineage import TableVersion
from schemas.model import MODEL

logger = logging.getLogger(__name__)

USER, QUALITY, INTERACTIONS = "user_id", "quality", "interactions"
BATCH_ROWS = 1 << 18
MANIFEST = re.compile(r"(?P<table>[^_].*)/(?P<version>[0-9a-f]{16})\.json")
"""Within a data set's folder."""
OF_ITEMS = re.compile("items|images|gallery|captions|(features|semantic_ids|semantic_codebooks)/.+")
"""Names of tables that hold no user and are made from none."""
LEARNED = (INTERACTIONS, MODEL, "embeddings/items", "embeddings/users", "item_weights")
"""Tables of users from which others are made."""


def held(store: Store, dataset: str, record: Forgotten) -> tuple[dict[str, int], set[str]]:
    """DATASET/TABLE@VERSION of each version with rows of these users → how many; and the hashes of those found.

    A damaged version, which may hold them, has 0. Memory: one batch, and the distinct ids in it.
    """
    rows: dict[str, int] = {}
    present: set[str] = set()
    for version in published(store, dataset):
        try:
            count, users = _rows(store, version, record)
        except (OSError, ValueError, UserError):
            if is_whole(store, version):  # then it is the store that cannot be read
                raise
            logger.warning("%s is damaged, and may hold them", reference(version))
            rows[reference(version)] = 0
            continue
        present |= users
        if count:
            rows[reference(version)] = count
    return rows, present


def is_whole(store: Store, version: TableVersion) -> bool:
    """Whether its manifest and files are as they were published."""
    try:
        store.verify(version)
    except UserError:
        return False
    return bool(version.files)


def published(store: Store, dataset: str) -> list[TableVersion]:
    """Every version that may hold users or be made from them, also of a table that has no latest one; one whose
    manifest is damaged has no files and no lineage."""
    base = store.folder(dataset)
    names: dict[str, set[str]] = {}
    for path in store.fs.find(base):
        match = MANIFEST.fullmatch(path[len(base) + 1 :])
        if match and not OF_ITEMS.fullmatch(match["table"]):
            names.setdefault(match["table"], set()).add(match["version"])
    found: list[TableVersion] = []
    for table, present in sorted(names.items()):
        readable = store.versions(dataset, table)
        damaged = present.difference(version.version for version in readable)
        found += [*readable, *(_damaged(store, dataset, table, name) for name in sorted(damaged))]
    return found


def _damaged(store: Store, dataset: str, table: str, name: str) -> TableVersion:
    place = f"{store.folder(dataset)}/{table}/{name}"
    kind = "files" if store.fs.exists(f"{place}.files") else "parquet"
    return TableVersion(
        dataset=dataset,
        table=table,
        version=name,
        key="",
        path=f"{place}.{kind}" if store.is_local else store.fs.unstrip_protocol(f"{place}.{kind}"),
        rows=0,
        size=0,
        files={},
        created="",
        lineage={},
    )


def _rows(store: Store, version: TableVersion, record: Forgotten) -> tuple[int, set[str]]:
    if not version.files:
        raise UserError(f"{reference(version)} has a damaged manifest.")
    if version.table == QUALITY:
        examples = store.read(version, ["examples"])["examples"].to_pylist()
        return sum(any(map(record.names, row)) for row in examples), set()
    if not version.path.endswith(".parquet") or USER not in _columns(store, version):
        return 0, set()
    count, users = 0, set()
    for batch in store.batches(version, [USER], BATCH_ROWS):
        gone = forgotten.among(record, batch[USER])
        if len(gone):
            count += pc.sum(pc.is_in(batch[USER], gone)).as_py()
            users |= {record.hash(user) for user in gone.to_pylist()}
    return count, users


def _columns(store: Store, version: TableVersion) -> list[str]:
    with store.fs.open(f"{store.inside(version.path)}/{min(version.files)}", "rb") as file:
        names: list[str] = pq.read_schema(file).names
    return names


def doomed(store: Store, dataset: str, rows: Collection[str]) -> list[TableVersion]:
    """The versions in `rows`, and every version that was made from one of them, such as a model, or from one that is
    no longer there, of which nothing tells whom it held. What others were made from stands last, so that what is left
    of an interrupted removal still tells what must go."""
    everything = published(store, dataset)
    present = {reference(version) for version in everything}
    gone = present.intersection(rows)
    gone |= {reference(version) for version in everything if not present.issuperset(_made_from(version, LEARNED))}
    while more := [v for v in everything if reference(v) not in gone and gone & set(_made_from(v))]:
        gone |= {reference(version) for version in more}
    order: list[TableVersion] = []
    rest = [version for version in everything if reference(version) in gone]
    while rest:
        needed = {name for version in rest for name in _made_from(version)}
        order += [version for version in rest if reference(version) not in needed]
        rest = [version for version in rest if reference(version) in needed]
    return order


def _made_from(version: TableVersion, tables: Collection[str] | None = None) -> list[str]:
    """References of its inputs; of those in `tables`, if given."""
    inputs: dict[str, str] = json.loads(version.lineage.get("cm3.inputs", "{}"))
    return [f"{version.dataset}/{table}@{name}" for table, name in inputs.items() if tables is None or table in tables]


def reference(version: TableVersion) -> str:
    """DATASET/TABLE@VERSION."""
    return f"{version.dataset}/{version.table}@{version.version}"
