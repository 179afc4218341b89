"""MovieLens with posters and plots, in either of two layouts.

- items.csv (item_id, title, genres "A, B", plot, image) and inter.csv (user, item, rating, timestamp);
- GroupLens' movies.csv (movieId, title, genres "A|B") and ratings.csv (userId, movieId, rating, timestamp). What
  GroupLens does not distribute comes from `joined`: a CSV of item_id with plot, image or both.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from pipeline.ingest.files import formats
from pipeline.ingest.files.json_lines import as_text
from pipeline.ingest.raw import RawFile, RawFiles
from pipeline.ingest.sources.base import RawItem
from pipeline.ingest.sources.catalogue import Catalogue
from pipeline.ingest.tally import Quality
from schemas.errors import UserError
from schemas.sources import CatalogueSource, InteractionColumns, ItemColumns, MovieLensSource


class MovieLens:
    """Two or three files in one place."""

    relative_images = True

    def __init__(self, config: MovieLensSource, cache: Path) -> None:
        self.config, self.cache = config, cache
        self.raw = RawFiles(config.raw, cache)

    @property
    def image_base(self) -> str | None:
        """The place of the files."""
        return self.raw.base

    def check(self, *, items_only: bool = False) -> None:
        """The files of one layout exist, and `joined` if it is named."""
        names = self._names(items_only)
        if not items_only:
            self.raw.find("the ratings", [names["interactions"]])
        if "joined" in names:
            self.raw.find("the plots and posters (joined)", [names["joined"]])

    def fetch(self, *, items_only: bool = False) -> dict[str, RawFile]:
        """The roles `items`, `interactions` and, if named, `joined`."""
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
        """Ratings."""
        return self._catalogue(files).interactions(files, quality, max_bad, published_split=False)

    def items(self, files: dict[str, RawFile], quality: Quality, max_bad: float) -> Iterator[RawItem]:
        """Films; plot and poster are those of `joined` if it has them."""
        joined = self._joined(files, quality, max_bad)
        for item in self._catalogue(files).items(files, quality, max_bad):
            plot, image = joined.get(item.item_id, ("", ""))
            item.description, item.image_url = plot or item.description, image or item.image_url
            yield item

    def _names(self, items_only: bool) -> dict[str, str]:
        names = {"items": self.raw.find("the films", ["items.csv", "movies.csv"])}
        if not items_only:
            names["interactions"] = "inter.csv" if names["items"] == "items.csv" else "ratings.csv"
        return names | ({"joined": self.config.joined} if self.config.joined else {})

    def _catalogue(self, files: dict[str, RawFile]) -> Catalogue:
        ours = files["items"].name == "items.csv"
        present = formats.field_names(files["items"])
        optional = {"description": "plot", "image_url": "image"}
        return Catalogue(
            CatalogueSource(
                raw=self.config.raw,
                items=files["items"].name,
                interactions=files["interactions"].name if "interactions" in files else "",
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
                missing=self.config.missing,
            ),
            self.cache,
        )

    def _joined(self, files: dict[str, RawFile], quality: Quality, max_bad: float) -> dict[str, tuple[str, str]]:
        if "joined" not in files:
            return {}
        file = files["joined"]
        present = formats.field_names(file)
        if "item_id" not in present or not {"plot", "image"} & set(present):
            raise UserError(f"{file.name}: expected item_id with plot, image or both; found {', '.join(present)}.")
        joined: dict[str, tuple[str, str]] = {}
        for row in formats.records(file, present, quality, max_bad):
            item_id = (as_text(row["item_id"]) or "").strip()
            if item_id in joined:
                quality.add(file.name, "duplicate_item", "dropped", 1, (item_id,))
            else:
                joined[item_id] = as_text(row.get("plot")) or "", as_text(row.get("image")) or ""
        return joined
