"""Small tables published as earlier stages would, and encoders that count what they are given."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from PIL import Image

from pipeline.encoders.base import Fingerprint, Vectors
from pipeline.store import Store
from schemas.lineage import Lineage, TableVersion
from schemas.tables import GALLERY, IMAGES, ITEMS, ImageStatus

DIM = 8
LONGEST = 100
"""The longest text that the counting encoder reads, in characters."""


def publish_items(
    store: Store, texts: Sequence[tuple[str, str | None]], dataset: str = "shop", price: float = 1.0
) -> TableVersion:
    """An `items` table of (item_id, text), in this order."""
    rows = [{"item_id": i, "categories": [], "text": text, "price": price} for i, text in texts]
    table = pa.Table.from_pylist(rows, schema=ITEMS)
    return publish(store, "items", table, dataset=dataset, config=[price, *map(list, texts)])


def publish_images(store: Store, pictures: Sequence[tuple[str, bytes | None]], dataset: str = "shop") -> TableVersion:
    """An `images` table of (item_id, stored picture or None for a download that failed), in this order."""
    rows = [
        {"item_id": i, "status": ImageStatus.NOT_FOUND if picture is None else ImageStatus.OK, "image": picture}
        for i, picture in pictures
    ]
    hashes = [[i, None if picture is None else hashlib.sha256(picture).hexdigest()] for i, picture in pictures]
    return publish(store, "images", pa.Table.from_pylist(rows, schema=IMAGES), dataset=dataset, config=hashes)


def publish_gallery(
    store: Store, galleries: Sequence[tuple[str, Sequence[bytes | None]]], dataset: str = "shop", policy: str = "mean"
) -> TableVersion:
    """A `gallery` table of (item_id, its further pictures), in this order; None for a download that failed."""
    rows = [
        {
            "item_id": i,
            "position": position,
            "status": ImageStatus.NOT_FOUND if picture is None else ImageStatus.OK,
            "image": picture,
        }
        for i, pictures in galleries
        for position, picture in enumerate(pictures, 1)
    ]
    hashes = [[r["item_id"], None if r["image"] is None else hashlib.sha256(r["image"]).hexdigest()] for r in rows]
    table = pa.Table.from_pylist(rows, schema=GALLERY)
    return publish(store, "gallery", table, dataset=dataset, config={"rows": hashes, "pictures": policy})


def publish(
    store: Store, name: str, table: pa.Table, *, dataset: str = "shop", config: object = None, **lineage: Any
) -> TableVersion:
    """A table with the columns of its contract, as a stage would publish it.

    Args:
        name: the table's, e.g. "items" or "features/clip".
        config: what determines the content, besides the rest of the lineage; by default a hash of the rows.
        lineage: further fields of `Lineage`, such as `inputs` or `encoder`.
    """
    if config is None:
        config = hashlib.sha256(repr(table.to_pydict()).encode()).hexdigest()
    settings = config if isinstance(config, dict) else {"rows": config}
    record = Lineage(**{"stage": "test", "stage_version": 1} | lineage, dataset=dataset, table=name, config=settings)
    with store.writer(table.schema.remove_metadata(), record) as writer:
        writer.write(table.replace_schema_metadata(None))
    return writer.version


def jpeg(colour: tuple[int, int, int], side: int = 24) -> bytes:
    """A small picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(out, "JPEG")
    return out.getvalue()


def vector_of(content: str | bytes) -> np.ndarray:
    """The vector that the counting encoders give for a content: of length 1, decided by its bytes."""
    data = content.encode() if isinstance(content, str) else content
    seed = int.from_bytes(hashlib.sha256(data).digest()[:8])
    row = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
    return row / np.linalg.norm(row)


def identity(name: str) -> Fingerprint:
    """The fingerprint of an encoder that exists only in tests."""
    return Fingerprint(kind="fake", model=name, revision="1", weights=name, options={}, dtype="float32", code=1)


class CountingTextEncoder:
    """A `TextEncoder` that remembers every text it was given."""

    def __init__(self, name: str = "words") -> None:
        self.fingerprint = identity(name)
        self.dim = DIM
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.seen.extend(texts)
        return np.stack([vector_of(text) for text in texts])

    def cut(self, texts: Sequence[str]) -> list[bool]:
        return [len(text) > LONGEST for text in texts]


class CountingImageEncoder:
    """An `ImageEncoder` that remembers every picture it was given."""

    def __init__(self, name: str = "eyes", batch_size: int = 4) -> None:
        self.fingerprint = identity(name)
        self.dim = DIM
        self.batch_size = batch_size
        self.seen: list[bytes] = []

    def preprocess(self, image: bytes) -> torch.Tensor:
        with Image.open(io.BytesIO(image)) as picture:
            picture.load()
        return torch.frombuffer(bytearray(image), dtype=torch.uint8)

    def encode(self, pixels: Sequence[torch.Tensor]) -> Vectors:
        pictures = [bytes(p.numpy().tobytes()) for p in pixels]
        self.seen.extend(pictures)
        return np.stack([vector_of(picture) for picture in pictures])


def vectors(version: TableVersion) -> Mapping[str, list[list[float] | None]]:
    """item_id → its vectors, read as a consumer would: by the version's path, with polars."""
    rows: dict[str, list[list[float] | None]] = {}
    for item_id, row in pl.read_parquet(version.path).select("item_id", "embedding").iter_rows():
        rows.setdefault(item_id, []).append(None if row is None else list(row))
    return rows
