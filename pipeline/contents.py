"""The texts or pictures of a table in shards, each content once: shared by the stages that have a model."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.cache import ShardCache
from pipeline.store import Store
from schemas.errors import UserError
from schemas.lineage import TableVersion
from schemas.tables import ImageStatus

CONTENT = {"items": "text", "captions": "caption", "images": "image"}
"""Source table → the column that models read."""

Content = str | bytes
Rows = tuple[pa.ChunkedArray, list[list[Content]]]
"""Ids of some items, and the contents of each."""


@dataclass
class Shard:
    """Some consecutive items.

    Attributes:
        hashes: for each item the hashes of its contents, each once: empty if it lacks the modality, several with a
            gallery.
        fresh: content hash → content, for contents that neither the cache nor an earlier shard holds.
    """

    item_ids: pa.ChunkedArray
    hashes: list[list[str]]
    fresh: dict[str, Any]

    def owner(self, content_hash: str) -> str:
        """Id of the first item that has this content."""
        return str(self.item_ids[next(i for i, mine in enumerate(self.hashes) if content_hash in mine)].as_py())


def shards(
    store: Store, source: TableVersion, cache: ShardCache, *, size: int, gallery: TableVersion | None = None
) -> Iterator[Shard]:
    """Every item of `source` in its order, about `size` contents at a time.

    Args:
        gallery: further pictures of the items in `source`.

    Raises:
        UserError: `gallery` holds items that are not in `source`, or in another order.
    """
    seen: set[str] = set()
    if gallery is None:
        batches = _contents(store, source, size)
    else:
        items = max(1, size * source.rows // max(1, source.rows + gallery.rows))
        batches = _with_gallery(_contents(store, source, items), _gallery_rows(store, gallery, size), source)
    for item_ids, contents in batches:
        hashes: list[list[str]] = []
        fresh: dict[str, Content] = {}
        for mine in contents:
            by_hash = {content_hash(content): content for content in mine}
            hashes.append(list(by_hash))
            fresh |= {key: c for key, c in by_hash.items() if key not in cache and key not in seen}
        seen.update(fresh)
        yield Shard(item_ids, hashes, fresh)


def content_hash(content: Content) -> str:
    """SHA-256 (hex) of the UTF-8 text, or of the stored picture's bytes."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def _contents(store: Store, source: TableVersion, rows: int) -> Iterator[Rows]:
    column = CONTENT[source.table]
    are_pictures = column == "image"
    for table in store.batches(source, ["item_id", column, *(["status"] if are_pictures else [])], rows=rows):
        contents = [[] if content is None else [content] for content in table[column].to_pylist()]
        if are_pictures:
            statuses = table["status"].to_pylist()
            contents = [c if status == ImageStatus.OK else [] for c, status in zip(contents, statuses, strict=True)]
        yield table["item_id"], contents


def _gallery_rows(store: Store, gallery: TableVersion, rows: int) -> Iterator[tuple[str, int, bytes | None]]:
    """Item id, position and picture of every row; None if its download failed."""
    for table in store.batches(gallery, ["item_id", "position", "status", "image"], rows=rows):
        for item_id, position, status, image in zip(
            *(table[name].to_pylist() for name in table.column_names), strict=True
        ):
            yield item_id, position, image if status == ImageStatus.OK else None


def _with_gallery(
    batches: Iterator[Rows], gallery_rows: Iterator[tuple[str, int, bytes | None]], source: TableVersion
) -> Iterator[Rows]:
    """Join two tables with the items in the same order, holding neither in memory."""
    row = next(gallery_rows, None)
    for item_ids, contents in batches:
        for item_id, mine in zip(item_ids.to_pylist(), contents, strict=True):
            last = 0
            while row is not None and row[0] == item_id and row[1] > last:
                last = row[1]
                if row[2] is not None:
                    mine.append(row[2])
                row = next(gallery_rows, None)
        yield item_ids, contents
    if row is not None:
        raise UserError(
            f"The gallery's item {row[0]!r} is not in images version {source.version}, or in another order there. Give "
            "the two versions that one run of the images stage published."
        )
