"""The texts or pictures of a table in shards, each content once: shared by the stages that have a model."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.store import Store
from schemas.errors import UserError
from schemas.lineage import TableVersion
from schemas.tables import ImageStatus

CONTENT = {"items": "text", "captions": "caption", "images": "image"}
"""Source table → the column that models read."""

Content = str | bytes
Held = Callable[[Iterable[str]], Collection[str]]
"""Which of some content hashes need no work, because a cache holds them."""
Rows = tuple[pa.ChunkedArray, list[list[Content]]]
"""Ids of some items, and the contents of each."""


@dataclass
class Shard:
    """Some consecutive items.

    Attributes:
        hashes: for each item the hashes of its contents, each once: empty if it lacks the modality, several with a
            gallery, or with a text and pictures.
        fresh: content hash → content, for contents that neither the cache nor an earlier shard holds; where an item's
            contents are encoded together, the hash of all of them → their list.
    """

    item_ids: pa.ChunkedArray
    hashes: list[list[str]]
    fresh: dict[str, Any]

    def owner(self, content_hash: str) -> str:
        """Id of the first item that has this content, or its hash where a part of the item could not be read."""
        owners = (i for i, mine in enumerate(self.hashes) if content_hash in (*mine, hash_of_all(mine)))
        return content_hash if (owner := next(owners, None)) is None else str(self.item_ids[owner].as_py())


def shards(
    store: Store,
    source: TableVersion,
    held: Held,
    *,
    size: int,
    images: TableVersion | None = None,
    gallery: TableVersion | None = None,
) -> Iterator[Shard]:
    """Every item of `source` in its order, about `size` contents at a time.

    Args:
        images: main pictures of the items in `source`. An item's text and pictures are then encoded together.
        gallery: further pictures of the items in `source`.

    Raises:
        UserError: `images` or `gallery` hold items that are not in `source`, or in another order.
    """
    seen: set[str] = set()
    more = [table for table in (images, gallery) if table is not None]
    items = max(1, size * source.rows // max(1, (source.rows if images is None else 0) + sum(t.rows for t in more)))
    batches = _contents(store, source, items if more else size)
    if images is not None:
        batches = _with_images(store, batches, images, size)
    if gallery is not None:
        batches = _with_gallery(batches, _gallery_rows(store, gallery, size), images or source)
    for item_ids, contents in batches:
        by_hash: list[dict[str, Any]] = [{content_hash(content): content for content in mine} for mine in contents]
        hashes = [list(mine) for mine in by_hash]
        if images is not None:
            by_hash = [{key: list(mine.values())} if (key := hash_of_all(list(mine))) else {} for mine in by_hash]
        every = {key: content for mine in by_hash for key, content in mine.items()}
        cached = held(every)
        fresh = {key: content for key, content in every.items() if key not in cached and key not in seen}
        seen.update(fresh)
        yield Shard(item_ids, hashes, fresh)


def nothing_held(_: Iterable[str]) -> Collection[str]:
    """Where no cache is asked."""
    return ()


def content_hash(content: Content) -> str:
    """SHA-256 (hex) of the UTF-8 text, or of the stored picture's bytes."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def hash_of_all(hashes: list[str]) -> str | None:
    """The hash of a single content; for several, the hash of their hashes, one per line; None for none."""
    return hashes[0] if len(hashes) == 1 else content_hash("\n".join(hashes)) if hashes else None


def _contents(store: Store, source: TableVersion, rows: int) -> Iterator[Rows]:
    column = CONTENT[source.table]
    are_pictures = column == "image"
    for table in store.batches(source, ["item_id", column, *(["status"] if are_pictures else [])], rows=rows):
        contents = [[] if content is None else [content] for content in table[column].to_pylist()]
        if are_pictures:
            statuses = table["status"].to_pylist()
            contents = [c if status == ImageStatus.OK else [] for c, status in zip(contents, statuses, strict=True)]
        yield table["item_id"], contents


def _with_images(store: Store, batches: Iterator[Rows], images: TableVersion, rows: int) -> Iterator[Rows]:
    """Join two tables of one row per item in the same order, holding neither in memory."""
    pictures = (
        row for ids, contents in _contents(store, images, rows) for row in zip(ids.to_pylist(), contents, strict=True)
    )
    for item_ids, contents in batches:
        for item_id, mine in zip(item_ids.to_pylist(), contents, strict=True):
            owner, picture = next(pictures, (None, []))
            if owner != item_id:
                raise UserError(
                    f"Where the items have {item_id!r}, images version {images.version} has {owner!r}. Give the two "
                    "versions that one run published."
                )
            mine += picture
        yield item_ids, contents


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
