"""Thumbnails that fit a budget: each picture once, as a WebP as small as the report's size requires."""

import base64
import io
import logging
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, UnidentifiedImageError

from pipeline.machine import side_by_side, threads
from pipeline.store import Store
from schemas.lineage import TableVersion

logger = logging.getLogger(__name__)

LADDER = (
    (256, 78),
    (192, 76),
    (160, 76),
    (128, 74),
    (112, 70),
    (96, 68),
    (80, 62),
    (64, 58),
    (64, 40),
    (48, 40),
    (48, 20),
)
"""Longest side in pixels and WebP quality, best first."""
_SAMPLE = 60


class Thumbnails:
    """Small pictures of items, decoded once at the largest size and encoded as the budget allows.

    Attributes:
        place: item id → place in `encode`'s list; equal pictures share one, items without a picture have none.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self.place: dict[str, int] = {}
        self._pictures: list[Image.Image] = []

    @classmethod
    def read(cls, store: Store, images: TableVersion | None, wanted: set[str], side: int) -> "Thumbnails":
        """The pictures of the wanted items, read a few at a time."""
        thumbnails = cls(side)
        content_of: dict[str, str] = {}
        by_content: dict[str, int] = {}

        def contents() -> Iterator[tuple[str, bytes]]:
            earlier: set[str] = set()
            for item, content, data in _stored(store, images, wanted):
                content_of[item] = content
                if content not in earlier:
                    earlier.add(content)
                    yield content, data

        def small(content: tuple[str, bytes]) -> tuple[str, Image.Image | None]:
            return content[0], _small(content[1], side)

        for content, picture in side_by_side(small, contents(), workers=threads()):
            if picture is not None:
                by_content[content] = len(thumbnails._pictures)
                thumbnails._pictures.append(picture)
        thumbnails.place = {item: by_content[c] for item, c in content_of.items() if c in by_content}
        return thumbnails

    def encode(self, budget: int) -> list[str]:
        """Base64 of WebP files, at most `budget` characters in total if the ladder's last rung allows.

        Each rung is tried on a sample first, so that mostly one rung is encoded in full.
        """
        step = max(1, len(self._pictures) // _SAMPLE)
        encoded: list[str] = []
        for side, quality in LADDER:
            if side > self.side:
                continue
            sample = _encoded(self._pictures[::step], side, quality)
            if sum(map(len, sample)) / max(1, len(sample)) * len(self._pictures) > budget * 1.03:
                continue
            encoded = _encoded(self._pictures, side, quality)
            if sum(map(len, encoded)) <= budget:
                return encoded
        logger.warning("the report's pictures do not fit %d bytes even at the smallest size", budget)
        return encoded or _encoded(self._pictures, *LADDER[-1])


def _stored(store: Store, images: TableVersion | None, wanted: set[str]) -> Iterator[tuple[str, str, bytes]]:
    if images is None:
        return
    chosen = pc.field("item_id").isin(pa.array(wanted, pa.string()))  # typed, for it may be empty
    for batch in store.batches(images, ["item_id", "sha256", "image"], 256):
        for row in batch.filter(chosen).to_pylist():
            if row["image"]:
                yield row["item_id"], row["sha256"] or row["item_id"], row["image"]


def _small(data: bytes, side: int) -> Image.Image | None:
    try:
        picture = Image.open(io.BytesIO(data))
        picture.draft("RGB", (side, side))  # lets the JPEG decoder work at a fraction of the size
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        return picture.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError) as error:
        logger.warning("a stored picture cannot be shown: %s", error)
        return None


def _encoded(pictures: Sequence[Image.Image], side: int, quality: int) -> list[str]:
    def webp(picture: Image.Image) -> str:
        small = picture if max(picture.size) <= side else picture.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=quality, method=2)
        return base64.b64encode(buffer.getvalue()).decode("ascii")

    return list(side_by_side(webp, pictures, workers=threads()))
