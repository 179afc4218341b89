"""Stage `images`: one picture, or one reason for its absence, for each item; on demand its gallery likewise.

Outcomes are kept by URL and pictures by the SHA-256 of the original file, in two caches. So equal URLs are fetched
once, equal bytes decoded and stored once, a killed run loses at most the shard in flight, and a later run asks only
for what failed for a passing reason, or what may have changed where `revalidate` says so.
"""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial

import pyarrow as pa

from pipeline import log_fields
from pipeline.cluster import Cluster
from pipeline.images.decode import CODEC_VERSION
from pipeline.images.downloader import download
from pipeline.images.interrupt import orderly_interrupts
from pipeline.images.kept import KeptImages
from pipeline.images.on_cluster import spread
from pipeline.images.outcome import Outcome, Validators
from pipeline.progress import track
from pipeline.published import Published, rows_by
from pipeline.store import Store
from schemas.images import ImagesConfig
from schemas.lineage import Lineage, TableVersion
from schemas.tables import GALLERY, IMAGES

logger = logging.getLogger(__name__)

STAGE_VERSION = 1
SCHEMAS = {"images": IMAGES, "gallery": GALLERY}
BATCH_ROWS = 512
KEEP_EVERY = 10.0
"""Seconds after which finished pictures are kept even if they do not fill a shard."""


def run(*, store: Store, items: TableVersion, config: ImagesConfig, cluster: Cluster | None = None) -> Published:
    """Publish `images`, one row an item, and where `config.pictures` asks for more than the main picture `gallery`, one
    row a further one; both in the order of `items`. Failed pictures are rows with a reason.

    A run that learns nothing new returns the versions published before, marked `reused`. It counts the addresses
    `downloaded` (the outcome of every other was known), pictures by status, and those of the gallery as `gallery: …`.

    Args:
        cluster: whose workers download and decode; none of the limits is exceeded by all of them together.

    Raises:
        UserError: the store cannot be written, or the cluster was lost. What was fetched by then is kept.
    """
    kept = KeptImages(store, config)
    addresses = {"images": partial(_main, store, items)}
    if config.pictures != "main":
        addresses["gallery"] = partial(_further, store, items, config.most_pictures)
    due = kept.due(rows["url"].to_pylist() for each in addresses.values() for rows in each())
    if due:
        _fetch(due, kept, config, cluster)
    tables = {
        table: _publish(store, _lineage(table, items, config, map(kept.with_outcomes, each())), each(), kept)
        for table, each in addresses.items()
    }
    by_status = rows_by(store, tables["images"], "status")
    further = rows_by(store, tables["gallery"], "status") if "gallery" in tables else {}
    counts = {"downloaded": float(len(due))} | by_status | {f"gallery: {name}": n for name, n in further.items()}
    return Published(tables, counts)


def _publish(store: Store, lineage: Lineage, addresses: Iterator[pa.Table], kept: KeptImages) -> TableVersion:
    if (published := store.find(lineage)) is not None:
        return published
    schema = SCHEMAS[lineage.table]
    with store.writer(schema, lineage) as writer:
        for rows in addresses:
            writer.write(kept.with_pictures(kept.with_outcomes(rows), schema))
    return writer.version


def _fetch(due: dict[str, Validators | None], kept: KeptImages, config: ImagesConfig, cluster: Cluster | None) -> None:
    """Download what is due, keeping finished pictures shard by shard, also when the run is interrupted."""
    pending: list[Outcome] = []
    counts: Counter[str] = Counter()
    known = kept.pictures.__contains__
    last = time.monotonic()
    shard = 1
    with (
        orderly_interrupts() as check_interrupts,
        track("images", total=len(due), unit="images") as advance,
        closing(
            spread(due, config=config, has_picture=known, cluster=cluster, idle=check_interrupts)
            if cluster
            else download(due, config=config, has_picture=known)
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


def _main(store: Store, items: TableVersion) -> Iterator[pa.Table]:
    """item_id and url of every item, in the items' order; url is null where there is none."""
    for batch in store.batches(items, ["item_id", "image_url"], rows=BATCH_ROWS):
        urls = [(url or "").strip() or None for url in batch["image_url"].to_pylist()]
        yield pa.table({"item_id": batch["item_id"], "url": pa.array(urls, pa.string())})


def _further(store: Store, items: TableVersion, most: int | None) -> Iterator[pa.Table]:
    """item_id, position and url of every further picture, so that an item has `most` with its main one."""
    for batch in store.batches(items, ["item_id", "gallery_urls"], rows=BATCH_ROWS):
        if "gallery_urls" not in batch.column_names:  # published before there were galleries, by a source without any
            return
        found = [
            {"item_id": item_id, "position": position, "url": url}
            for item_id, urls in zip(batch["item_id"].to_pylist(), batch["gallery_urls"].to_pylist(), strict=True)
            for position, url in enumerate(urls or [], 1)
            if most is None or position < most
        ]
        yield pa.Table.from_pylist(found, schema=pa.schema([GALLERY.field(n) for n in ("item_id", "position", "url")]))


def _lineage(table: str, items: TableVersion, config: ImagesConfig, outcomes: Iterable[pa.Table]) -> Lineage:
    """The key follows what was found, not how: another timeout or server address alone makes no new version."""
    found = hashlib.sha256()
    for rows in outcomes:
        for status, sha256 in zip(rows["status"].to_pylist(), rows["sha256"].to_pylist(), strict=True):
            found.update(f"{status} {sha256}\n".encode())
    stored = {"max_side": config.max_side, "jpeg_quality": config.jpeg_quality, "codec": CODEC_VERSION}
    policy = {} if table == "images" else {"pictures": config.pictures}
    return Lineage(
        dataset=items.dataset,
        table=table,
        stage="images",
        stage_version=STAGE_VERSION,
        config=stored | policy | {"outcomes": found.hexdigest()},
        inputs={"items": items.version},
    )
