"""Stage `images`: for each item one picture, or the reason why there is none; if asked for, its gallery likewise.

Outcomes are kept by URL and pictures by the SHA-256 of the original file, in two caches. So equal URLs are downloaded
once, equal bytes are decoded and stored once, a killed run loses at most the shard in flight, and a later run asks only
for what failed for a passing reason, and with `revalidate` for what may have changed.
"""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial

import pyarrow as pa

from pipeline import log_fields
from pipeline.cluster import Cluster
from pipeline.images import quality as picture_quality
from pipeline.images.decode import CODEC_VERSION
from pipeline.images.downloader import download
from pipeline.images.interrupt import orderly_interrupts
from pipeline.images.kept import KeptImages
from pipeline.images.on_cluster import download_on_cluster
from pipeline.images.outcome import Outcome, Validators
from pipeline.images.shared import SharedPictures
from pipeline.progress import track
from pipeline.published import Published, rows_by
from pipeline.store import Store
from schemas.images import ImagesConfig
from schemas.lineage import Lineage, TableVersion
from schemas.tables import GALLERY, IMAGES

logger = logging.getLogger(__name__)

STAGE_VERSION = 3
SCHEMAS = {"images": IMAGES, "gallery": GALLERY}
BATCH_ROWS = 512
KEEP_EVERY = 10.0
"""Seconds after which finished pictures are kept even if they do not fill a shard."""


def run(
    *,
    store: Store,
    items: TableVersion,
    config: ImagesConfig,
    quality: TableVersion | None = None,
    cluster: Cluster | None = None,
) -> Published:
    """Publish `images`, one row per item, and if `config.pictures` asks for more than the main picture also `gallery`,
    one row per further picture; both in the order of `items`. A failed picture is a row with a reason, and so is one
    that too many items have (`config.placeholder_share`).

    A run that learns nothing new returns the versions published before, marked `reused`. Counts: `downloaded`, the URLs
    that were requested; images by status; further pictures by status, as `gallery: <status>`.

    Args:
        quality: is published anew with rows about pictures, if there is something to say of them.
        cluster: its workers download and decode, and together stay within all limits.

    Raises:
        UserError: the store cannot be written, or the cluster was lost. What was downloaded until then is kept.
    """
    kept = KeptImages(store, config)
    url_rows = {"images": partial(main_urls, store, items)}
    if config.pictures != "main":
        url_rows["gallery"] = partial(further_urls, store, items, config.most_pictures)
    due = kept.due(rows["url"].to_pylist() for read in url_rows.values() for rows in read())
    if due:
        _download(due, kept, config, cluster)
    shared = SharedPictures(urls_by_item(store, items, config.most_pictures), kept, items.rows, config)
    tables = {}
    for table, read in url_rows.items():
        outcomes = partial(_outcomes, read, kept, shared)
        tables[table] = _publish(store, describe(table, items, config, outcomes()), outcomes(), kept)
    by_status = rows_by(store, tables["images"], "status")
    further = rows_by(store, tables["gallery"], "status") if "gallery" in tables else {}
    counts = {"downloaded": float(len(due))} | by_status | {f"gallery: {name}": n for name, n in further.items()}
    if quality is not None and (said := picture_quality.publish(store, quality, tables, shared)) is not None:
        tables["quality"] = said
    return Published(tables, counts)


def _outcomes(read: Callable[[], Iterator[pa.Table]], kept: KeptImages, shared: SharedPictures) -> Iterator[pa.Table]:
    return (shared.with_placeholders(kept.with_outcomes(rows)) for rows in read())


def _publish(store: Store, lineage: Lineage, outcomes: Iterator[pa.Table], kept: KeptImages) -> TableVersion:
    if (version := store.find(lineage)) is not None:
        return version
    schema = SCHEMAS[lineage.table]
    with store.writer(schema, lineage) as writer:
        for rows in outcomes:
            writer.write(kept.with_pictures(rows, schema))
    return writer.version


def _download(
    due: dict[str, Validators | None], kept: KeptImages, config: ImagesConfig, cluster: Cluster | None
) -> None:
    """Download what is due. Finished pictures are kept shard by shard, and also when the run is interrupted."""
    pending: list[Outcome] = []
    counts: Counter[str] = Counter()
    has_picture = kept.pictures.__contains__
    last = time.monotonic()
    shard = 1
    with (
        orderly_interrupts() as check_interrupts,
        track("images", total=len(due), unit="images") as advance,
        closing(
            download_on_cluster(due, config=config, has_picture=has_picture, cluster=cluster, idle=check_interrupts)
            if cluster
            else download(due, config=config, has_picture=has_picture)
        ) as finished,
    ):
        log_fields.change(shard=shard)
        try:
            for outcomes in finished:
                pending.extend(outcomes)
                check_interrupts()
                counts.update(outcome.status or "unchanged" for outcome in outcomes)
                advance(len(outcomes))
                if len(pending) >= config.shard_rows or time.monotonic() - last > KEEP_EVERY:
                    batch, pending, last = pending, [], time.monotonic()
                    kept.keep(batch, due)
                    shard += 1
                    log_fields.change(shard=shard)
        finally:
            kept.keep(pending, due)
    logger.info("images: %s", ", ".join(f"{count:,} {status}" for status, count in counts.most_common()))


def main_urls(store: Store, items: TableVersion) -> Iterator[pa.Table]:
    """item_id and url of every item, in the items' order; url is null if there is none."""
    for batch in store.batches(items, ["item_id", "image_url"], rows=BATCH_ROWS):
        urls = [(url or "").strip() or None for url in batch["image_url"].to_pylist()]
        yield pa.table({"item_id": batch["item_id"], "url": pa.array(urls, pa.string())})


def further_urls(store: Store, items: TableVersion, most: int | None) -> Iterator[pa.Table]:
    """item_id, position and url of further pictures: at most `most` per item, its main picture included; None: all."""
    schema = pa.schema([GALLERY.field(name) for name in ("item_id", "position", "url")])
    for batch in store.batches(items, ["item_id", "gallery_urls"], rows=BATCH_ROWS):
        rows = [
            {"item_id": item_id, "position": position, "url": url}
            for item_id, urls in zip(batch["item_id"].to_pylist(), batch["gallery_urls"].to_pylist(), strict=True)
            for position, url in enumerate(urls or [], 1)
            if most is None or position < most
        ]
        yield pa.Table.from_pylist(rows, schema=schema)


def urls_by_item(store: Store, items: TableVersion, most: int | None) -> Iterator[list[list[str]]]:
    """For each item the addresses of the pictures that are asked for, a batch of items at a time."""
    for batch in store.batches(items, ["image_url", "gallery_urls"], rows=BATCH_ROWS):
        yield [
            [url for url in [(main or "").strip(), *(further or [])][:most] if url]
            for main, further in zip(batch["image_url"].to_pylist(), batch["gallery_urls"].to_pylist(), strict=True)
        ]


def describe(table: str, items: TableVersion, config: ImagesConfig, outcomes: Iterable[pa.Table]) -> Lineage:
    """The key depends on the outcomes, not on how they came about: another timeout alone makes no new version."""
    digest = hashlib.sha256()
    for rows in outcomes:
        for status, sha256 in zip(rows["status"].to_pylist(), rows["sha256"].to_pylist(), strict=True):
            digest.update(f"{status} {sha256}\n".encode())
    codec = {"max_side": config.max_side, "jpeg_quality": config.jpeg_quality, "codec": CODEC_VERSION}
    policy = {} if table == "images" else {"pictures": config.pictures}
    return Lineage(
        dataset=items.dataset,
        table=table,
        stage="images",
        stage_version=STAGE_VERSION,
        config=codec | policy | {"outcomes": digest.hexdigest()},
        inputs={"items": items.version},
    )
