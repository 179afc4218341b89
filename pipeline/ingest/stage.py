"""Raw catalogue → `items`, `interactions` and `quality`: read, filter, split, publish."""

import hashlib
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

import polars as pl
import pyarrow as pa

from pipeline.ingest import filters, interactions, splits, spool
from pipeline.ingest.items import Finisher, is_missing
from pipeline.ingest.raw import RawFile
from pipeline.ingest.sources import open_source
from pipeline.ingest.sources.base import RAW_INTERACTIONS, Source
from pipeline.ingest.tally import EXAMPLES, Quality
from pipeline.published import Published, rows_by
from pipeline.store import Store, explained
from schemas.ingest import IngestConfig
from schemas.lineage import Lineage, TableVersion
from schemas.sources import FileSource
from schemas.tables import INTERACTIONS, ITEMS, QUALITY

logger = logging.getLogger(__name__)

STAGE_VERSION = 5
SCHEMAS = {"items": ITEMS, "interactions": INTERACTIONS, "quality": QUALITY}
"""The tables that this stage publishes."""
ABOUT_ITEMS = {"require", "max_bad_share"}
"""Fields of `IngestConfig` that decide about items."""
ABOUT_INTERACTIONS = {"interactions", "interaction_columns"}
"""Fields of a source that are about its interactions alone."""


def check(*, store: Store, source: FileSource, items_only: bool = False) -> None:
    """Refuse a source whose files are missing, before any work.

    Raises:
        UserError: names the field, what was expected and what was found.
    """
    open_source(source, store.scratch("raw")).check(items_only=items_only)


def run(*, store: Store, dataset: str, source: FileSource, config: IngestConfig, items_only: bool = False) -> Published:
    """Fetch, read, filter, split and publish; or return what was published from equal files with equal parameters.

    The counts are rows by the rule that dropped, repaired or kept them: the table `quality`. The table `interactions`
    is absent if none are left after the filters: what was published before stays the newest.

    Args:
        dataset: name in the store; empty: the source's own.
        items_only: interactions are neither needed nor read nor published.

    Raises:
        UserError: files are missing, damaged or of another format; or no interaction is with an item of the catalogue.
    """
    reader = open_source(source, store.scratch("raw"))
    reader.check(items_only=items_only)
    files = reader.fetch(items_only=items_only)
    lineages = _lineages(dataset or source.dataset, source, config, reader, files, items_only)
    tables = {name: version for name, lineage in lineages.items() if (version := store.find(lineage))}
    if len(tables) < len(lineages):
        tables = _ingest(store, reader, files, source.image_url, config, lineages)
    return Published(tables, rows_by(store, tables["quality"], "rule", "count"))


def _ingest(
    store: Store,
    reader: Source,
    files: dict[str, RawFile],
    image_url: str,
    config: IngestConfig,
    lineages: dict[str, Lineage],
) -> dict[str, TableVersion]:
    """The path of one catalogue. Items are read first, and published once their interactions are counted."""
    quality, items_file = Quality(), files["items"].name
    dataset = lineages["items"].dataset
    scratch = store.scratch(f"ingest/{dataset}")  # a fixed name: the next run overwrites what a killed one left
    records = reader.items(files, quality, config.max_bad_share)
    finisher = Finisher(items_file, quality, reader.image_base, image_url)
    with explained(f"{dataset}'s items, before they are published,", store):
        catalogue = spool.write(scratch / "items.parquet", finisher.rows(records, require=config.require))

    frame, counts = None, None
    if "interactions" in lineages:
        frame, counts = _interactions(reader, files, catalogue, config, quality)
    item_tables = spool.read(scratch / "items.parquet", counts)
    if counts is not None:
        item_tables = _counted(item_tables, counts, items_file, quality)
    versions = {"items": _publish(store, lineages["items"], item_tables)}
    if frame is not None and len(frame):
        versions["interactions"] = _publish(store, lineages["interactions"], interactions.tables(frame))
    versions["quality"] = _publish(store, lineages["quality"], [quality.table()])
    shutil.rmtree(scratch, ignore_errors=True)
    return versions


def _interactions(
    reader: Source, files: dict[str, RawFile], catalogue: set[str], config: IngestConfig, quality: Quality
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The interactions that train and are judged, with their split, perhaps none; and item id → their number, of every
    item that was chosen at all."""
    file = files["interactions"]
    batches: Iterator[pl.DataFrame] = iter([])
    method = "per_user"
    if file.path.stat().st_size:
        method = splits.method(config.split, has_split=reader.has_split(files))
        batches = reader.interactions(files, quality, config.max_bad_share, published_split=method == "published")
    frame = interactions.collect(chain(batches, [pl.DataFrame(schema=RAW_INTERACTIONS)]), file.name, quality)
    rows_read, chosen = len(frame), interactions.item_ids(frame)
    frame = filters.apply(
        frame,
        catalogue,
        quality,
        min_rating=config.min_rating,
        core_k=1 if method == "published" else config.core_k,  # a published split is used as it is
        items_file=files["items"].name,
        file=file.name,
    )
    if len(frame):
        frame = splits.apply(frame, method, config, file.name, quality)
    logger.info(
        "%s: %s of %s interactions kept, with %s of %s items",
        *(file.name, f"{len(frame):,}", f"{rows_read:,}", f"{frame['item_id'].n_unique():,}", f"{len(catalogue):,}"),
    )
    return frame, dict.fromkeys(chosen, 0) | _by_item(frame)


def _by_item(frame: pl.DataFrame) -> dict[str, int]:
    """Item id → its number of rows."""
    counts = frame.group_by("item_id").len()
    return dict(zip(counts["item_id"].cast(pl.String), counts["len"], strict=True))


def _counted(tables: Iterable[pa.Table], counts: Mapping[str, int], file: str, quality: Quality) -> Iterator[pa.Table]:
    """The same tables of items; counts how many are warm, rare and unsold.

    Args:
        counts: item id → its published interactions, of every item that was chosen at all.
    """
    for table in tables:
        kinds: dict[str, list[str]] = {"warm_item": [], "rare_item": [], "unsold_item": []}
        for item_id in table["item_id"].to_pylist():
            count = counts.get(item_id)
            kinds["unsold_item" if count is None else "warm_item" if count else "rare_item"].append(item_id)
        for rule, ids in kinds.items():
            quality.add(file, rule, "kept", len(ids), tuple(ids[:EXAMPLES]))
        yield table


def _publish(store: Store, lineage: Lineage, tables: Iterable[pa.Table]) -> TableVersion:
    with store.writer(SCHEMAS[lineage.table], lineage) as writer:
        for table in tables:
            writer.write(table)
    return writer.version


def _lineages(
    dataset: str,
    source: FileSource,
    config: IngestConfig,
    reader: Source,
    files: dict[str, RawFile],
    items_only: bool,
) -> dict[str, Lineage]:
    """The lineage of each table. Equal bytes and parameters give equal versions, wherever the bytes lie.

    If picture URLs are relative, the base URL is part of the key of the tables that depend on them. Which local
    pictures are missing is part of it only if items without one are left out. Without interactions, nothing that is
    about them is part of it.
    """
    pictures = {"image_url": source.image_url, "base": reader.image_base if reader.relative_images else None}
    needs_picture = "image" in config.require
    if needs_picture and (pictures["base"] or "").startswith("file:"):
        pictures["missing"] = _items_without_picture(source, config, reader, files)
    left_out = {"raw", "image_url"} | (ABOUT_INTERACTIONS if items_only else set())
    settings = {
        "source": source.model_dump(mode="json", exclude=left_out),
        **config.model_dump(mode="json", include=ABOUT_ITEMS if items_only else None),
    }
    return {
        table: Lineage(
            dataset=dataset,
            table=table,
            stage="ingest",
            stage_version=STAGE_VERSION,
            config=settings if table == "interactions" and not needs_picture else settings | {"pictures": pictures},
            inputs={f"raw/{file.name}": file.sha256 for file in files.values()},
        )
        for table in SCHEMAS
        if not (items_only and table == "interactions")
    }


def _items_without_picture(source: FileSource, config: IngestConfig, reader: Source, files: dict[str, RawFile]) -> str:
    """Digest of the ids of all items without a picture. It takes a pass over the raw items: no table has those that
    were left out."""
    finisher = Finisher("", Quality(), reader.image_base, source.image_url)
    ids = hashlib.sha256()
    for item in reader.items(files, Quality(), config.max_bad_share):
        if is_missing(next(iter(finisher.pictures(item)), None)):
            ids.update(item.item_id.encode(errors="replace") + b"\n")
    return ids.hexdigest()
