"""Raw catalogue → `items`, `interactions` and `quality`: read, filter, split, publish."""

import hashlib
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

import polars as pl
import pyarrow as pa

from pipeline import forgotten
from pipeline.ingest import filters, interactions, sample, splits, spool
from pipeline.ingest.files import formats
from pipeline.ingest.items import Finisher
from pipeline.ingest.pictures import Pictures
from pipeline.ingest.raw import RawFile
from pipeline.ingest.sources import open_source
from pipeline.ingest.sources.base import RAW_INTERACTIONS, Source
from pipeline.ingest.tally import EXAMPLES, Quality
from pipeline.published import Published, rows_by
from pipeline.store import Store, explained
from schemas.forgetting import Forgotten
from schemas.ingest import IngestConfig
from schemas.lineage import Lineage, TableVersion
from schemas.sources import CatalogueSource, FileSource
from schemas.tables import INTERACTIONS, ITEMS, QUALITY

logger = logging.getLogger(__name__)

STAGE_VERSION = 9
SCHEMAS = {"items": ITEMS, "interactions": INTERACTIONS, "quality": QUALITY}
"""The tables that this stage publishes."""
ABOUT_ITEMS = {"require", "max_bad_share"}
"""Fields of `IngestConfig` that decide about items."""
ABOUT_INTERACTIONS = {"interactions", "interaction_columns", "interactions_format", "time_format", "rating_values"}
"""Fields of a source that are about its interactions alone."""


def check(*, store: Store, source: FileSource, items_only: bool = False) -> None:
    """Refuse a source whose files are missing, before any work.

    Raises:
        UserError: names the field, what was expected and what was found.
    """
    open_source(source, store.scratch("raw")).check(items_only=items_only)


def run(
    *,
    store: Store,
    dataset: str,
    source: FileSource,
    config: IngestConfig,
    items_only: bool = False,
    limit: int | None = None,
    output: Store | None = None,
) -> Published:
    """Fetch, read, filter, split and publish; or return what was published from equal files with equal parameters.

    The counts are rows by the rule that dropped, repaired or kept them: the table `quality`. The table `interactions`
    is absent if none are left after the filters: what was published before stays the newest. Interactions of users who
    were forgotten (`pipeline.forgotten`) are left out.

    Args:
        dataset: name in the store; empty: the source's own.
        items_only: interactions are neither needed nor read nor published.
        limit: publish a sample of at most this many items, and the interactions with them.
        output: where tables are published that `store` does not have; default: `store`.

    Raises:
        UserError: files are missing, damaged or of another format; or no interaction is with an item of the catalogue.
    """
    reader = open_source(source, store.scratch("raw"))
    reader.check(items_only=items_only)
    files = reader.fetch(items_only=items_only)
    dataset = dataset or source.dataset
    left_out = forgotten.read(store, dataset)
    lineages = _lineages(dataset, source, config, reader, files, items_only, limit, left_out)
    tables = {name: version for name, lineage in lineages.items() if (version := store.find(lineage))}
    if len(tables) < len(lineages):
        store = output or store
        tables = _ingest(store, reader, files, source, config, lineages, limit, left_out)
    return Published(tables, rows_by(store, tables["quality"], "rule", "count"))


def _ingest(
    store: Store,
    reader: Source,
    files: dict[str, RawFile],
    source: FileSource,
    config: IngestConfig,
    lineages: dict[str, Lineage],
    limit: int | None,
    left_out: Forgotten,
) -> dict[str, TableVersion]:
    """The path of one catalogue. Items are read first, and published once their interactions are counted."""
    quality, items_file = Quality(), files["items"].name
    dataset = lineages["items"].dataset
    scratch = store.scratch(f"ingest/{dataset}")  # a fixed name: the next run overwrites what a killed one left
    records = reader.items(files, quality, config.max_bad_share)
    pictures = Pictures(reader.image_base, source.image_url)
    finisher = Finisher(items_file, quality, pictures, named_columns(source))
    with explained(f"{dataset}'s items, before they are published,", store):
        catalogue, filled = spool.write(scratch / "items.parquet", finisher.rows(records, require=config.require))
    finisher.judge(filled)
    chosen = None if limit is None else sample.of_ids(catalogue, limit)

    frame, counts = None, None
    if "interactions" in lineages:
        frame, counts = _interactions(reader, files, catalogue, chosen, config, quality, left_out)
    item_tables = spool.read(scratch / "items.parquet", counts)
    if chosen is not None:
        item_tables = sample.of_items(item_tables, chosen, items_file, quality)
    if counts is not None:
        item_tables = _counted(item_tables, counts, items_file, quality)
    versions = {"items": _publish(store, lineages["items"], item_tables)}
    if frame is not None and len(frame):
        versions["interactions"] = _publish(store, lineages["interactions"], interactions.tables(frame))
    versions["quality"] = _publish(store, lineages["quality"], [forgotten.cleaned(quality.table(), left_out)])
    shutil.rmtree(scratch, ignore_errors=True)
    return versions


def named_columns(source: FileSource) -> dict[str, str]:
    """Our name → the file's, of the columns of items that a person named."""
    columns = source.item_columns.model_dump() if isinstance(source, CatalogueSource) else {}
    return {ours: str(theirs) for ours, theirs in columns.items() if theirs}


def _interactions(
    reader: Source,
    files: dict[str, RawFile],
    catalogue: set[str],
    chosen: set[str] | None,
    config: IngestConfig,
    quality: Quality,
    left_out: Forgotten,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The interactions that train and are judged, with their split, perhaps none; and item id → their number, of every
    item that was chosen at all.

    Args:
        chosen: ids of the items to which a sample is confined; None: of all.
    """
    file = files["interactions"]
    batches: Iterator[pl.DataFrame] = iter([])
    method = "per_user"
    if not formats.is_empty(file):
        method = splits.method(config.split, has_split=reader.has_split(files))
        batches = reader.interactions(files, quality, config.max_bad_share, published_split=method == "published")
    batches = forgotten.left_out(batches, left_out, file.name, quality)
    frame = interactions.collect(chain(batches, [pl.DataFrame(schema=RAW_INTERACTIONS)]), file.name, quality)
    rows_read, bought = len(frame), interactions.item_ids(frame)
    frame = filters.apply(
        frame,
        catalogue,
        quality,
        min_rating=config.min_rating,
        core_k=1 if method == "published" else config.core_k,  # a published split is used as it is
        items_file=files["items"].name,
        file=file.name,
        sample=chosen,
    )
    if len(frame):
        frame = splits.apply(frame, method, config, file.name, quality)
    logger.info(
        "%s: %s of %s interactions kept, with %s of %s items",
        *(file.name, f"{len(frame):,}", f"{rows_read:,}", f"{frame['item_id'].n_unique():,}", f"{len(catalogue):,}"),
    )
    return frame, dict.fromkeys(bought, 0) | _by_item(frame)


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
    limit: int | None,
    left_out: Forgotten,
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
    about_others = {"raw", "sql", "image_url"} | (ABOUT_INTERACTIONS if items_only else set())
    settings = {
        "source": source.model_dump(mode="json", exclude=about_others),
        **config.model_dump(mode="json", include=ABOUT_ITEMS if items_only else None),
        **({} if limit is None else {"limit": limit}),
    }
    return {
        table: Lineage(
            dataset=dataset,
            table=table,
            stage="ingest",
            stage_version=STAGE_VERSION,
            config=settings if table == "interactions" and not needs_picture else settings | {"pictures": pictures},
            inputs={f"raw/{file.name}": file.sha256 for file in files.values()}
            | ({} if items_only else left_out.identity()),
        )
        for table in SCHEMAS
        if not (items_only and table == "interactions")
    }


def _items_without_picture(source: FileSource, config: IngestConfig, reader: Source, files: dict[str, RawFile]) -> str:
    """Digest of the ids of all items without a picture. It takes a pass over the raw items: no table has those that
    were left out."""
    pictures = Pictures(reader.image_base, source.image_url)
    ids = hashlib.sha256()
    for item in reader.items(files, Quality(), config.max_bad_share):
        if pictures.is_missing(next(iter(pictures.of(item)), None)):
            ids.update(item.item_id.encode(errors="replace") + b"\n")
    return ids.hexdigest()
