"""MovieLens with posters and plots, in either of two layouts.

- items.csv (item_id, title, genres "A, B", plot, image) and inter.csv (user, item, rating, timestamp);
- GroupLens' movies.csv (movieId, title, genres "A|B") and ratings.csv (userId, movieId, rating, timestamp), to which
  `joined`, a CSV of item_id with plot, image or both, adds what GroupLens does not distribute.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from pipeline.ingest.files.json_lines import as_text
from pipeline.ingest.raw import Raw, RawFile
from pipeline.ingest.sources.base import RawItem
from pipeline.ingest.sources.catalogue import Catalogue, field_names, rows
from pipeline.ingest.tally import Quality
from schemas.errors import UserError
from schemas.sources import CatalogueSource, InteractionColumns, ItemColumns, MovieLensSource


class MovieLens:
    """Two or three files in one place."""

    relative_images = True
    has_split = False

    def __init__(self, config: MovieLensSource, cache: Path) -> None:
        self.config, self.cache = config, cache
        self.raw = Raw(config.raw, cache)

    @property
    def image_base(self) -> str | None:
        """The place of the files."""
        return self.raw.base

    def check(self) -> None:
        """The files of one layout exist, and `joined` where it is named."""
        items = self.raw.find("the films", ["items.csv", "movies.csv"])
        self.raw.find("the ratings", ["inter.csv" if items == "items.csv" else "ratings.csv"])
        if self.config.joined:
            self.raw.find("the plots and posters (joined)", [self.config.joined])

    def fetch(self) -> dict[str, RawFile]:
        """The roles `items`, `interactions` and, where named, `joined`."""
        items = self.raw.find("the films", ["items.csv", "movies.csv"])
        names = {"items": items, "interactions": "inter.csv" if items == "items.csv" else "ratings.csv"}
        if self.config.joined:
            names["joined"] = self.config.joined
        return {role: self.raw.fetch(name) for role, name in names.items()}

    def interactions(self, files: dict[str, RawFile], quality: Quality, max_bad: float) -> Iterator[pl.DataFrame]:
        """Ratings."""
        return self._catalogue(files).interactions(files, quality, max_bad)

    def items(self, files: dict[str, RawFile], quality: Quality, max_bad: float) -> Iterator[RawItem]:
        """Films, with plot and poster from `joined` where that has them."""
        joined = self._joined(files, quality, max_bad)
        for item in self._catalogue(files).items(files, quality, max_bad):
            plot, image = joined.get(item.item_id, ("", ""))
            item.description, item.image_url = plot or item.description, image or item.image_url
            yield item

    def _catalogue(self, files: dict[str, RawFile]) -> Catalogue:
        ours = files["items"].name == "items.csv"
        present = field_names(files["items"])
        optional = {"description": "plot", "image_url": "image"}
        return Catalogue(
            CatalogueSource(
                raw=self.config.raw,
                items=files["items"].name,
                interactions=files["interactions"].name,
                item_columns=ItemColumns(
                    item_id="item_id" if ours else "movieId",
                    title="title",
                    categories="genres",
                    **{name: column for name, column in optional.items() if column in present},
                ),
                interaction_columns=InteractionColumns(
                    user_id="user" if ours else "userId",
                    item_id="item" if ours else "movieId",
                    rating="rating",
                    timestamp="timestamp",
                ),
                category_separator="," if ours else "|",
            ),
            self.cache,
        )

    def _joined(self, files: dict[str, RawFile], quality: Quality, max_bad: float) -> dict[str, tuple[str, str]]:
        if "joined" not in files:
            return {}
        file = files["joined"]
        present = field_names(file)
        if "item_id" not in present or not {"plot", "image"} & set(present):
            raise UserError(f"{file.name}: expected item_id with plot, image or both; found {', '.join(present)}.")
        joined: dict[str, tuple[str, str]] = {}
        for row in rows(file, present, quality, max_bad):
            item_id = (as_text(row["item_id"]) or "").strip()
            if item_id in joined:
                quality.add(file.name, "duplicate_item", "dropped", 1, (item_id,))
            else:
                joined[item_id] = as_text(row.get("plot")) or "", as_text(row.get("image")) or ""
        return joined
