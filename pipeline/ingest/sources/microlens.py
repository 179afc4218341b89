"""MicroLens (Westlake University): pairs of user and video, titles, and a folder of covers named by the video's id."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from pipeline.ingest.cells import present
from pipeline.ingest.files.delimited import header_of, tables
from pipeline.ingest.files.interaction_columns import Columns, Reading, raw_interactions
from pipeline.ingest.raw import RawFile, RawFiles
from pipeline.ingest.sources.base import RawItem
from pipeline.ingest.tally import Quality
from schemas.errors import UserError
from schemas.sources import MicroLensSource

PAIRS = ("{0}_pairs.csv",)
TITLES = ("{0}_titles.csv", "{0}_title_en.csv", "{0}_title.csv")
_USER, _ITEM = ("user", "userID", "user_id"), ("item", "videoID", "itemID", "item_id")


class MicroLens:
    """The CSV files of one size of the data set. Times are in milliseconds; there are no ratings."""

    relative_images = True

    def __init__(self, config: MicroLensSource, cache: Path) -> None:
        self.config = config
        self.raw = RawFiles(config.raw, cache)

    @property
    def image_base(self) -> str | None:
        """The place of the files."""
        return self.raw.base

    def check(self, *, items_only: bool = False) -> None:
        """Pairs and titles exist."""
        self._names(items_only)

    def fetch(self, *, items_only: bool = False) -> dict[str, RawFile]:
        """The roles `items` and `interactions`."""
        return {role: self.raw.fetch(name) for role, name in self._names(items_only).items()}

    def has_split(self, files: dict[str, RawFile]) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def interactions(
        self,
        files: dict[str, RawFile],
        quality: Quality,
        max_bad: float,
        *,
        published_split: bool,  # noqa: ARG002 - there is none
    ) -> Iterator[pl.DataFrame]:
        """Pairs."""
        file = files["interactions"]
        names, header = _header(file, ("user", "item", "timestamp"))
        columns = Columns(_one_of(_USER, names, file), _one_of(_ITEM, names, file), timestamp="timestamp")
        batches = tables(file, quality, max_bad, header=header)
        return raw_interactions(batches, columns, file, quality, Reading(self.config.missing))

    def items(self, files: dict[str, RawFile], quality: Quality, max_bad: float) -> Iterator[RawItem]:
        """Titles, each with the address of its cover."""
        return present(self._items(files["items"], quality, max_bad), self.config.missing, files["items"].name, quality)

    def _items(self, file: RawFile, quality: Quality, max_bad: float) -> Iterator[RawItem]:
        names, header = _header(file, ("item", "title"))
        id_column = _one_of(_ITEM, names, file)
        cover = f"{self.config.prefix}_covers/{{0}}.jpg"
        for frame in tables(file, quality, max_bad, header=header):
            for row in frame.iter_rows(named=True):
                if item_id := (row[id_column] or "").strip():
                    yield RawItem(item_id, title=row.get("title") or "", image_url=cover.format(item_id))
                else:
                    quality.add(file.name, "item_without_id", "dropped", 1, ((row.get("title") or "untitled")[:60],))

    def _names(self, items_only: bool) -> dict[str, str]:
        return {
            role: self.raw.find(what, [name.format(self.config.prefix) for name in names])
            for role, what, names in (("items", "the titles", TITLES), ("interactions", "the pairs", PAIRS))
            if role == "items" or not items_only
        }


def _header(file: RawFile, usual: tuple[str, ...]) -> tuple[list[str], tuple[str, ...] | None]:
    """The columns, and also the header if the file has none of its own: some of the files begin with a row."""
    present = header_of(file)
    if present and present[0].isdigit() and len(present) == len(usual):
        return list(usual), usual
    return present, None


def _one_of(names: tuple[str, ...], present: list[str], file: RawFile) -> str:
    for name in names:
        if name in present:
            return name
    raise UserError(f"{file.name}: no column {' or '.join(names)}; found {', '.join(present)}. Check {file.source}.")
