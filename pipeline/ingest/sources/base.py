"""What every source provides: its files, raw items and raw interactions."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import polars as pl

from pipeline.ingest.raw import RawFile
from pipeline.ingest.tally import Quality

MILLISECONDS_FROM = 10**11
"""A time from here on is not in seconds (it would be the year 5138) but in milliseconds (1973)."""
MICROSECONDS_FROM = 10**14
"""A time from here on is in microseconds (1973; as milliseconds it would be the year 5138)."""
NANOSECONDS_FROM = 10**17
"""A time from here on is in nanoseconds (1973; as microseconds it would be the year 5138)."""

RAW_INTERACTIONS = {"user_id": pl.String, "item_id": pl.String, "rating": pl.Float32, "timestamp": pl.Int64}
"""Columns of a batch of raw interactions; `timestamp` in the source's own unit. Those of `OPTIONAL` that say something
may follow."""
OPTIONAL = ("split", "date_order", "is_date", "fraction")
"""A published split; of times that are texts like 01/02/2024 their order; which times were dates and no numbers; and of
small numbers the fraction."""
SPLIT = pl.Enum(["train", "valid", "test"])
"""Type of the column `split`."""
DATE_ORDER = pl.Enum(["day first", "month first", "either"])
"""Type of `date_order`: the order of day and month that a text by itself can have; "either" is read day first."""


@dataclass(slots=True)
class RawItem:
    """One record of a catalogue, in the source's own words: HTML, entities and empty texts included.

    `image_url` and `gallery_urls`, the further pictures, may be relative to the source's place. `more_text` also
    describes the item, and goes into `text` alone. `never_shown` is None where nothing is said of it.
    """

    item_id: str
    title: str = ""
    description: str = ""
    brand: str = ""
    categories: list[str] = field(default_factory=list)
    price: Any = None
    image_url: str = ""
    gallery_urls: list[str] = field(default_factory=list)
    more_text: list[str] = field(default_factory=list)
    never_shown: bool | None = None


class Source(Protocol):
    """One kind of catalogue. `items` and `interactions` read what `fetch` returned, in little memory.

    Both count in `quality` what they could not use.

    Raises (from `has_split`, `items` and `interactions`):
        UserError: a file is damaged, of another format, or has too large a share of bad lines (`max_bad`).
    """

    relative_images: bool
    """Whether picture addresses may be relative to where the files lie."""

    def check(self, *, items_only: bool = False) -> None:
        """Make sure that every file exists, before any work. Quick.

        Args:
            items_only: the interactions are not needed, and may be absent.

        Raises:
            UserError: names the field, what was expected and what was found.
        """

    def fetch(self, *, items_only: bool = False) -> dict[str, RawFile]:
        """Role ("items", "interactions", …) → file on this machine, downloaded if necessary.

        Args:
            items_only: see `check`.

        Raises:
            UserError: a file is missing or cannot be downloaded.
        """

    @property
    def image_base(self) -> str | None:
        """URL with a trailing slash that relative picture addresses belong to."""

    def has_split(self, files: dict[str, RawFile]) -> bool:
        """Whether the interactions come with a published split."""

    def interactions(
        self, files: dict[str, RawFile], quality: Quality, max_bad: float, *, published_split: bool
    ) -> Iterator[pl.DataFrame]:
        """Batches with the columns of `RAW_INTERACTIONS`, in file order; every row has both ids.

        Args:
            published_split: read the published split as a further column, `split`; only if `has_split`.
        """

    def items(self, files: dict[str, RawFile], quality: Quality, max_bad: float) -> Iterator[RawItem]:
        """Every record that has an id, in file order, duplicates included."""
