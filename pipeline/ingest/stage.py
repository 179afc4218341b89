"""Raw catalogue → `items`, `interactions` and `quality`: read, filter, split, publish."""

import hashlib
import logging
import shutil
from collections.abc import Iterable

import pyarrow as pa

from pipeline.ingest import filters, interactions, splits, spool
from pipeline.ingest.items import Finisher, is_missing
from pipeline.ingest.raw import RawFile
from pipeline.ingest.sources import open_source
from pipeline.ingest.sources.base import Source
from pipeline.ingest.tally import Quality
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


def check(*, store: Store, source: FileSource) -> None:
    """Refuse a source whose files are missing, before any work.

    Raises:
        UserError: names the field, what was expected and what was found.
    """
    open_source(source, store.scratch("raw")).check()


def run(*, store: Store, dataset: str, source: FileSource, config: IngestConfig) -> Published:
    """Fetch, read, filter, split and publish; or return what was published from equal files with equal parameters.

    The counts are rows by the rule that dropped, repaired or kept them: the table `quality`.

    Args:
        dataset: name in the store; empty: the source's own.

    Raises:
        UserError: files are missing, damaged or of another format; or nothing is left after the filters.
    """
    reader = open_source(source, store.scratch("raw"))
    reader.check()
    files = reader.fetch()
    method = splits.method(config.split, has_split=reader.has_split(files))
    lineages = _lineages(dataset or source.dataset, source, config, reader, files)
    tables = {name: version for name, lineage in lineages.items() if (version := store.find(lineage))}
    if len(tables) < len(lineages):
        tables = _ingest(store, reader, files, source.image_url, config, method, lineages)
    return Published(tables, rows_by(store, tables["quality"], "rule", "count"))


def _ingest(
    store: Store,
    reader: Source,
    files: dict[str, RawFile],
    image_url: str,
    config: IngestConfig,
    method: str,
    lineages: dict[str, Lineage],
) -> dict[str, TableVersion]:
    """The path of one catalogue. Interactions are read first, for only items that someone chose are kept."""
    quality = Quality()
    dataset, items_file, file = lineages["items"].dataset, files["items"].name, files["interactions"].name

    batches = reader.interactions(files, quality, config.max_bad_share, published_split=method == "published")
    frame = interactions.collect(batches, file, quality)
    rows_read = len(frame)

    scratch = store.scratch(f"ingest/{dataset}")  # a fixed name: the next run overwrites what a killed one left
    records = reader.items(files, quality, config.max_bad_share)
    finisher = Finisher(items_file, quality, reader.image_base, image_url)
    item_rows = finisher.rows(records, chosen=interactions.item_ids(frame), require=config.require)
    with explained(f"{dataset}'s items, unfiltered,", store):
        catalogue = spool.write(scratch / "items.parquet", item_rows)

    core_k = 1 if method == "published" else config.core_k  # a published split is used as it is
    frame = filters.apply(
        frame, catalogue, quality, min_rating=config.min_rating, core_k=core_k, items_file=items_file, file=file
    )
    frame = splits.apply(frame, method, config, file, quality)
    kept = interactions.item_ids(frame)
    logger.info("%s: %s of %s interactions, %s items kept", file, f"{len(frame):,}", f"{rows_read:,}", len(kept))

    contents: dict[str, Iterable[pa.Table]] = {
        "items": spool.read(scratch / "items.parquet", kept),
        "interactions": interactions.tables(frame),
        "quality": [quality.table()],
    }
    versions = {name: _publish(store, lineages[name], tables) for name, tables in contents.items()}
    shutil.rmtree(scratch, ignore_errors=True)
    return versions


def _publish(store: Store, lineage: Lineage, tables: Iterable[pa.Table]) -> TableVersion:
    with store.writer(SCHEMAS[lineage.table], lineage) as writer:
        for table in tables:
            writer.write(table)
    return writer.version


def _lineages(
    dataset: str, source: FileSource, config: IngestConfig, reader: Source, files: dict[str, RawFile]
) -> dict[str, Lineage]:
    """The lineage of each table. Equal bytes and parameters give equal versions, wherever the bytes lie.

    If picture URLs are relative, the base URL is part of the key of the tables that depend on them. Which local
    pictures are missing is part of it only if items without one are left out.
    """
    pictures = {"image_url": source.image_url, "base": reader.image_base if reader.relative_images else None}
    needs_picture = "image" in config.require
    if needs_picture and (pictures["base"] or "").startswith("file:"):
        pictures["missing"] = _items_without_picture(source, config, reader, files)
    settings = {
        "source": source.model_dump(mode="json", exclude={"raw", "image_url"}),
        **config.model_dump(mode="json"),
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
