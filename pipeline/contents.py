"""What the stages with a model have in common: contents in shards, each met once, and what a run made of them."""

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

CONTENT = {"items": "text", "captions": "caption", "images": "image", "gallery": "image"}
"""Source table → the column that models read."""

Content = str | bytes


@dataclass
class Shard:
    """Some items in a row.

    Attributes:
        hashes: the content hashes of each item, each once: none where it lacks the modality, several with a gallery.
        fresh: content hash → content, of what neither the cache nor an earlier shard holds.
    """

    item_ids: pa.ChunkedArray
    hashes: list[list[str]]
    fresh: dict[str, Any]

    def owner(self, content_hash: str) -> str:
        """An item that has this content."""
        return str(self.item_ids[next(i for i, mine in enumerate(self.hashes) if content_hash in mine)].as_py())


def shards(
    store: Store, source: TableVersion, cache: ShardCache, *, size: int, gallery: TableVersion | None = None
) -> Iterator[Shard]:
    """Every item of `source` in its order, about `size` contents at a time.

    Args:
        gallery: adds the further pictures of `source`'s items to theirs.

    Raises:
        UserError: `gallery` holds items that are not in `source`, or in another order.
    """
    seen: set[str] = set()
    if gallery is None:
        read = _contents(store, source, size)
    else:
        items = max(1, size * source.rows // max(1, source.rows + gallery.rows))
        read = _with_gallery(_contents(store, source, items), _further(store, gallery, size), source)
    for item_ids, contents in read:
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


def _contents(store: Store, source: TableVersion, rows: int) -> Iterator[tuple[pa.ChunkedArray, list[list[Content]]]]:
    column = CONTENT[source.table]
    pictures = column == "image"
    for table in store.batches(source, ["item_id", column, *(["status"] if pictures else [])], rows=rows):
        contents = [[] if content is None else [content] for content in table[column].to_pylist()]
        if pictures:
            statuses = table["status"].to_pylist()
            contents = [c if status == ImageStatus.OK else [] for c, status in zip(contents, statuses, strict=True)]
        yield table["item_id"], contents


def _further(store: Store, gallery: TableVersion, rows: int) -> Iterator[tuple[str, int, bytes | None]]:
    """Item, position and picture of every row; None where there is no picture."""
    for table in store.batches(gallery, ["item_id", "position", "status", "image"], rows=rows):
        for item_id, position, status, image in zip(
            *(table[name].to_pylist() for name in table.column_names), strict=True
        ):
            yield item_id, position, image if status == ImageStatus.OK else None


def _with_gallery(
    read: Iterator[tuple[pa.ChunkedArray, list[list[Content]]]],
    further: Iterator[tuple[str, int, bytes | None]],
    source: TableVersion,
) -> Iterator[tuple[pa.ChunkedArray, list[list[Content]]]]:
    """Join two tables that are in one order, without holding either."""
    row = next(further, None)
    for item_ids, contents in read:
        for item_id, mine in zip(item_ids.to_pylist(), contents, strict=True):
            last = 0
            while row is not None and row[0] == item_id and row[1] > last:
                last = row[1]
                if row[2] is not None:
                    mine.append(row[2])
                row = next(further, None)
        yield item_ids, contents
    if row is not None:
        raise UserError(
            f"The gallery's item {row[0]!r} is not in images version {source.version}, or not at its place there. Give "
            "the two versions that one run of the images stage published."
        )
