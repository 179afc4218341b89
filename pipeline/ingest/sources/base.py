"""What every source gives: its files, raw items and raw interactions, and a tally of what could not be used."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import polars as pl

from pipeline.ingest.raw import RawFile
from pipeline.ingest.tally import Quality

MILLISECONDS_FROM = 10**11
"""A time of at least this is not in seconds (that would be the year 5138) but in milliseconds (1973)."""
MICROSECONDS_FROM = 10**14
"""A time of at least this is in microseconds (1973; as milliseconds, the year 5138)."""

RAW_INTERACTIONS = {"user_id": pl.String, "item_id": pl.String, "rating": pl.Float32, "timestamp": pl.Int64}
"""Columns of a batch of raw interactions; `timestamp` in the source's own unit. A published `split` and, where texts as
01/02/2024 were read, `date_order` may follow."""
DATE_ORDER = pl.Enum(["day first", "month first", "either"])
"""What such a text alone says of the order; `timestamp` is read day first where it may be either."""


@dataclass(slots=True)
class RawItem:
    """One record of a catalogue, in the source's own words: HTML, entities and empty texts included.

    `image_url` and `gallery_urls`, the further pictures, may be relative to the source's place.
    """

    item_id: str
    title: str = ""
    description: str = ""
    brand: str = ""
    categories: list[str] = field(default_factory=list)
    price: Any = None
    image_url: str = ""
    gallery_urls: list[str] = field(default_factory=list)


class Source(Protocol):
    """One kind of catalogue. `check` is quick; `fetch` brings the files to this machine; both readers stream."""

    relative_images: bool
    """Whether picture addresses may be relative to where the files lie."""

    has_split: bool
    """Whether interactions come with a published split, known once they are fetched; False leaves it unread."""

    def check(self) -> None:
        """Make sure that every file exists, before any work.

        Raises:
            UserError: names the field, what was expected and what was found.
        """

    def fetch(self) -> dict[str, RawFile]:
        """Role ("items", "interactions", …) → file on this machine."""

    @property
    def image_base(self) -> str | None:
        """URL with a trailing slash that relative picture addresses belong to."""

    def interactions(self, files: dict[str, RawFile], quality: Quality, max_bad: float) -> Iterator[pl.DataFrame]:
        """Batches with the columns of `RAW_INTERACTIONS` in file order; ids are null where missing."""

    def items(self, files: dict[str, RawFile], quality: Quality, max_bad: float) -> Iterator[RawItem]:
        """Every record that has an id, in file order, duplicates included."""
